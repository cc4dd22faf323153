{{/* Egress rules that several network policies share; each takes the root context and prints items of a list. */}}
{{- define "vigorl.egress.dns" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  to: {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
{{- end -}}

{{- define "vigorl.egress.storage" -}}
{{- if hasPrefix "s3://" (include "vigorl.storage.root" .) -}}
{{- $endpoint := include "vigorl.s3.endpoint" . -}}
{{- $port := ternary 443 80 (eq (include "vigorl.s3.secure" .) "true") -}}
{{- if contains ":" $endpoint -}}
{{- $port = int (splitList ":" $endpoint | last) -}}
{{- end -}}
- ports:
    {{- range .Values.networkPolicy.storage.ports | default (list $port) }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
  {{- with .Values.networkPolicy.storage.to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* A peer: the release's pods of some components; takes (dict "root" $ "components" names). */}}
{{- define "vigorl.peer" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: {{ .root.Chart.Name }}
      app.kubernetes.io/instance: {{ .root.Release.Name }}
    matchExpressions:
      - {key: app.kubernetes.io/component, operator: In, values: {{ .components | toJson }}}
{{- end -}}
