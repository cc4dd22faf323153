{{/*
What the release consists of, and how each part is configured. No manifest is made here: services, network policies
and scaling all begin with `include "vigorl.components" . | fromJson`.
*/}}

{{/*
JSON: component name → role, policy (its name, of a policy), values (all defaults laid below), calls (the components
that it asks). Refuses values that contradict each other.
*/}}
{{- define "vigorl.components" -}}
{{- include "vigorl.validate" . -}}
{{- $root := . -}}
{{- $found := dict -}}
{{- $names := list -}}
{{- range $name, $policy := .Values.policies -}}
{{- $values := mergeOverwrite (deepCopy $root.Values.componentDefaults) (deepCopy $root.Values.policyDefaults) (deepCopy ($policy | default dict)) -}}
{{- if $values.enabled -}}
{{- include "vigorl.modelCache.resolve" (dict "root" $root "policy" $name "values" $values) -}}
{{- include "vigorl.validate.policy" (dict "root" $root "name" $name "values" $values) -}}
{{- $names = append $names $name -}}
{{- $_ := set $found (printf "policy-%s" $name) (dict "role" "policy" "policy" $name "values" $values "calls" list) -}}
{{- end -}}
{{- end -}}
{{- $others := dict -}}
{{- range $role := list "environment" "reward" "search" "evaluation" -}}
{{- $values := mergeOverwrite (deepCopy $root.Values.componentDefaults) (deepCopy (index $root.Values $role)) -}}
{{- if $values.enabled -}}
{{- include "vigorl.validate.component" (dict "name" $role "values" $values) -}}
{{- $_ := set $others $role $values -}}
{{- end -}}
{{- end -}}
{{- range $role, $values := $others -}}
{{- $calls := list -}}
{{- if has $role (list "search" "evaluation") -}}
{{- include "vigorl.validate.policies" (dict "name" $role "asked" $values.policies "known" $names) -}}
{{- range $values.policies | default $names -}}
{{- $calls = append $calls (printf "policy-%s" .) -}}
{{- end -}}
{{- range list "environment" "reward" -}}
{{- if hasKey $others . -}}
{{- $calls = append $calls . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq $role "reward" -}}
{{- with include "vigorl.judge" $values -}}
{{- include "vigorl.validate.judge" (dict "judge" . "known" $names) -}}
{{- $calls = append $calls (printf "policy-%s" .) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $found $role (dict "role" $role "values" $values "calls" $calls) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* A component's config.json; takes (dict "root" $ "name" component-name "component" block). */}}
{{- define "vigorl.config" -}}
{{- $root := .root -}}
{{- $drain := sub (int .component.values.terminationGracePeriodSeconds) 15 -}}
{{- $server := dict "listen" "0.0.0.0:50051" "metrics_port" 9090 "drain_s" $drain -}}
{{- $tls := dict -}}
{{- if $root.Values.tls.existingSecret -}}
{{- $tls = dict "tls_certificate" "/etc/vigorl/tls/tls.crt" "tls_key" "/etc/vigorl/tls/tls.key" -}}
{{- if $root.Values.tls.mutual -}}
{{- $_ := set $tls "tls_client_ca" "/etc/vigorl/tls/ca.crt" -}}
{{- end -}}
{{- $_ := set $server "health_listen" "0.0.0.0:50053" -}}
{{- else if not $root.Values.auth.existingSecret -}}
{{- /* A service refuses to listen beyond loopback without token and TLS unless it is told that this is meant. */ -}}
{{- $_ := set $server "allow_insecure" true -}}
{{- end -}}
{{- $config := dict "root" (include "vigorl.storage.root" $root) "server" (mergeOverwrite $server $tls) -}}
{{- if eq .component.role "policy" -}}
{{- $config = mergeOverwrite $config (include "vigorl.config.policy" (mergeOverwrite (dict "tls" $tls) .) | fromJson) -}}
{{- else if has .component.role (list "search" "evaluation") -}}
{{- $_ := set $config "services" (include "vigorl.config.services" . | fromJson) -}}
{{- else if and (eq .component.role "reward") .component.calls -}}
{{- $target := include "vigorl.target" (dict "root" $root "component" (first .component.calls)) -}}
{{- $_ := set $config "judge" (dict "target" $target "client" (include "vigorl.config.client" $root | fromJson)) -}}
{{- end -}}
{{- mergeOverwrite $config .component.values.config | toPrettyJson -}}
{{- end -}}

{{/* What only a policy has: its name, its checkpoint, and the listener for new weights of one that a run trains. */}}
{{- define "vigorl.config.policy" -}}
{{- $given := .component.values.config.policy | default dict -}}
{{- $policy := dict "name" .component.policy -}}
{{- $config := dict "policy" $policy -}}
{{- with $given.trainable_by -}}
{{- $_ := set $policy "weights_root" (printf "%s/runs/%s/weights" (include "vigorl.storage.root" $.root | trimSuffix "/") .) -}}
{{- $admin := dict "listen" "0.0.0.0:50052" -}}
{{- if not (or $.root.Values.auth.existingSecret $.tls.tls_client_ca) -}}
{{- $_ := set $admin "allow_insecure" true -}}
{{- end -}}
{{- $_ := set $config "admin" (mergeOverwrite $admin $.tls) -}}
{{- end -}}
{{- toJson $config -}}
{{- end -}}

{{/* Where the others are, for a component that asks them. */}}
{{- define "vigorl.config.services" -}}
{{- $root := .root -}}
{{- $services := dict "policies" dict -}}
{{- range .component.calls -}}
{{- $target := include "vigorl.target" (dict "root" $root "component" .) -}}
{{- if hasPrefix "policy-" . -}}
{{- $_ := set $services.policies (trimPrefix "policy-" .) $target -}}
{{- else -}}
{{- $_ := set $services . $target -}}
{{- end -}}
{{- end -}}
{{- with include "vigorl.config.client" $root | fromJson -}}
{{- $_ := set $services "client" . -}}
{{- end -}}
{{- toJson $services -}}
{{- end -}}

{{/* What a component that asks others believes and shows: nothing without TLS. Takes the root context. */}}
{{- define "vigorl.config.client" -}}
{{- $client := dict -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $client "tls_ca" "/etc/vigorl/tls/ca.crt" -}}
{{- if .Values.tls.mutual -}}
{{- $_ := set $client "tls_certificate" "/etc/vigorl/tls/tls.crt" -}}
{{- $_ := set $client "tls_key" "/etc/vigorl/tls/tls.key" -}}
{{- end -}}
{{- end -}}
{{- toJson $client -}}
{{- end -}}

{{/* Name of the release's policy that judges free answers; empty without a judge, or with one that lies elsewhere. */}}
{{- define "vigorl.judge" -}}
{{- with .config.judge -}}
{{- if not (or .target .engine) -}}
{{ .policy | default "judge" }}
{{- end -}}
{{- end -}}
{{- end -}}
