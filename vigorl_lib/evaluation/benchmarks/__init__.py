"""The paper's benchmarks by name: what each is, where its files come from, and how it is asked (docs/benchmarks.md).

A benchmark is imported into storage once (`importing`), and is a data set like any other from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

from vigorl_lib.errors import ConfigError
from vigorl_lib.evaluation.benchmarks import general, screens, spatial, visual_search, web_action
from vigorl_lib.evaluation.benchmarks.spec import Benchmark

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        benchmark.name: benchmark
        for benchmark in (
            spatial.SAT2,
            spatial.BLINK,
            spatial.BLINK_JOINED,
            spatial.ROBOSPATIAL_YES_NO,
            spatial.ROBOSPATIAL_CONTEXT,
            visual_search.VSTAR,
            screens.OS_ATLAS,
            screens.SCREENSPOT,
            screens.SCREENSPOT_V2,
            screens.SCREENSPOT_PRO,
            screens.SCREENSPOT_PRO_LR,
            web_action.WEB_ACTION,
            general.MMMU,
            general.REALWORLDQA,
        )
    }
)


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name. Raises ConfigError (BENCHMARK_UNKNOWN) that names close ones."""
    if name not in BENCHMARKS:
        close = get_close_matches(name, BENCHMARKS, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(BENCHMARKS)}"
        raise ConfigError(f"no benchmark {name!r}; {hint}", reason="BENCHMARK_UNKNOWN", benchmark=name)
    return BENCHMARKS[name]
