{{- define "vigorl.fullname" -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name)) -}}
{{- /* With "-policy-" and a policy's 24 characters a service's name stays a DNS label. */ -}}
{{- $name | trunc 30 | trimSuffix "-" -}}
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

{{/* A reference by digest or tag; takes (dict "root" $ "image" (dict "repository" … "tag" … "digest" …)). */}}
{{- define "vigorl.image" -}}
{{- $repository := .image.repository -}}
{{- if not (contains "/" $repository) -}}
{{- $repository = printf "%s/%s" .root.Values.image.registry $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* A target that gRPC resolves to every ready pod of a headless service; takes (dict "root" $ "component" name). */}}
{{- define "vigorl.target" -}}
dns:///{{ include "vigorl.fullname" .root }}-{{ .component }}.{{ .root.Release.Namespace }}.svc:50051
{{- end -}}

{{- define "vigorl.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "vigorl.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
