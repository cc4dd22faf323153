{{/*
Refusals that a schema cannot express: what values demand of each other, in sentences that say what to change. All
print nothing. This one takes the root context; those of components are asked where their defaults are laid below them.
*/}}
{{- define "vigorl.validate" -}}
{{- include "vigorl.validate.minio" . -}}
{{- include "vigorl.validate.storage" . -}}
{{- include "vigorl.validate.modelCache" . -}}
{{- if and .Values.tls.mutual (not .Values.tls.existingSecret) -}}
{{- fail "tls.mutual needs tls.existingSecret: TLS is off without it" -}}
{{- end -}}
{{- end -}}

{{/* Takes (dict "name" component "asked" policy-names "known" policy-names). */}}
{{- define "vigorl.validate.policies" -}}
{{- range .asked -}}
{{- if not (has . $.known) -}}
{{- fail (printf "%s.policies names %q, which is no enabled policy; policies has: %s" $.name . (join ", " $.known)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes (dict "judge" policy-name "known" policy-names). */}}
{{- define "vigorl.validate.judge" -}}
{{- if not (has .judge .known) -}}
{{- fail (printf "reward.config.judge asks the policy %q, which is no enabled policy; policies has: %s. Declare it, or give the judge's target" .judge (join ", " .known)) -}}
{{- end -}}
{{- end -}}

{{- define "vigorl.validate.storage" -}}
{{- $root := include "vigorl.storage.root" . -}}
{{- if hasPrefix "s3://" $root -}}
{{- if not (include "vigorl.s3.endpoint" .) -}}
{{- fail (printf "storage.root is %s, and storage.s3.endpoint is empty: set it to host or host:port of your S3 endpoint, or enable the development MinIO with minio.enabled=true" $root) -}}
{{- end -}}
{{- else if not .Values.storage.existingClaim -}}
{{- fail (printf "storage.root is the folder %s: set storage.existingClaim to a claim that all pods can mount there, or use an s3:// root" $root) -}}
{{- end -}}
{{- end -}}

{{/* Takes (dict "name" where-in-the-values "values" block). */}}
{{- define "vigorl.validate.component" -}}
{{- $image := .values.image -}}
{{- if and $image.tag $image.digest -}}
{{- fail (printf "%s.image has a tag and a digest: a digest says all, so leave the tag out" .name) -}}
{{- end -}}
{{- $scaling := .values.autoscaling -}}
{{- if and $scaling.enabled (lt (int $scaling.maxReplicas) (int $scaling.minReplicas)) -}}
{{- fail (printf "%s.autoscaling: maxReplicas %d is below minReplicas %d" .name (int $scaling.maxReplicas) (int $scaling.minReplicas)) -}}
{{- end -}}
{{- $drain := (.values.config.server | default dict).drain_s -}}
{{- if and $drain (gt (int $drain) (sub (int .values.terminationGracePeriodSeconds) 5)) -}}
{{- fail (printf "%s.config.server.drain_s %v is cut off: set terminationGracePeriodSeconds to at least 15 seconds more" .name $drain) -}}
{{- end -}}
{{- end -}}

{{/* Takes (dict "root" $ "name" policy-name "values" block). */}}
{{- define "vigorl.validate.policy" -}}
{{- $where := printf "policies.%s" .name -}}
{{- include "vigorl.validate.component" (dict "name" $where "values" .values) -}}
{{- $policy := .values.config.policy | default dict -}}
{{- if not $policy.model -}}
{{- fail (printf "%s.config.policy.model is empty: give a folder or a storage URI of its checkpoint" $where) -}}
{{- end -}}
{{- if and $policy.name (ne $policy.name .name) -}}
{{- fail (printf "%s.config.policy.name is %q: a policy is called as in policies, so leave it out" $where $policy.name) -}}
{{- end -}}
{{- $image := .values.image -}}
{{- $default := not (or $image.tag $image.digest .root.Values.image.tag (ne $image.repository "policy")) -}}
{{- if and $default (or (int .values.gpus) (eq ($policy.engine | default "") "vllm")) -}}
{{- fail (printf "%s has GPUs or engine vllm, and the default image is a build for CPUs without vLLM: set its image.tag, for example to %s-cuda" $where .root.Chart.AppVersion) -}}
{{- end -}}
{{- $parallel := ($policy.vllm | default dict).tensor_parallel_size -}}
{{- if and $parallel .values.gpus (gt (int $parallel) (int .values.gpus)) -}}
{{- fail (printf "%s.config.policy.vllm.tensor_parallel_size is %d, and its gpus are %d: set gpus to at least as many" $where (int $parallel) (int .values.gpus)) -}}
{{- end -}}
{{- $scaling := .values.autoscaling -}}
{{- if and $scaling.enabled (eq $scaling.kind "keda") (not $scaling.prometheusAddress) -}}
{{- fail (printf "%s.autoscaling.kind is keda: set autoscaling.prometheusAddress, for example http://prometheus.monitoring.svc:9090" $where) -}}
{{- end -}}
{{- if and (eq ($policy.engine | default "transformers") "openai") .root.Values.networkPolicy.enabled (not .root.Values.networkPolicy.openai) -}}
{{- fail (printf "%s has engine openai, and networkPolicy.openai is empty: it could reach nothing; list the egress rule of its endpoint" $where) -}}
{{- end -}}
{{- end -}}
