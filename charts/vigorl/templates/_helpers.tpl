{{- define "vigorl.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels; takes (dict "root" $ "component" name). Selector labels never hold a version. */}}
{{- define "vigorl.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "vigorl.labels" -}}
{{ include "vigorl.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* A component's image: a name below the registry, or a full reference of its own. */}}
{{- define "vigorl.image" -}}
{{- if contains "/" .image -}}
{{ .image }}
{{- else -}}
{{ printf "%s/%s:%s" .root.Values.image.registry .image (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{- define "vigorl.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "vigorl.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Storage and secrets as environment; the loader and nothing else reads them. */}}
{{- define "vigorl.env" -}}
{{- with .Values.storage.s3 }}
{{- if .endpoint }}
- {name: VIGORL_S3__ENDPOINT, value: {{ .endpoint | quote }}}
- {name: VIGORL_S3__SECURE, value: {{ .secure | quote }}}
{{- end }}
{{- if .existingSecret }}
- name: VIGORL_S3__ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: access-key}}
- name: VIGORL_S3__SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: secret-key}}
{{- end }}
{{- end }}
{{- end -}}

{{/* A target that gRPC resolves to every ready pod of a headless service. */}}
{{- define "vigorl.target" -}}
dns:///{{ include "vigorl.fullname" .root }}-{{ .component }}.{{ .root.Release.Namespace }}.svc:{{ .port | default 50051 }}
{{- end -}}
