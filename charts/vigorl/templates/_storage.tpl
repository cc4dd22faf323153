{{/*
Where the storage is and who we are to it: every template that needs one of these takes it from here.
Each takes the root context.
*/}}
{{- define "vigorl.storage.root" -}}
{{ .Values.storage.root }}
{{- end -}}

{{- define "vigorl.s3.endpoint" -}}
{{ if .Values.minio.enabled }}{{ include "vigorl.minio.name" . }}.{{ .Release.Namespace }}.svc:9000{{ else }}{{ .Values.storage.s3.endpoint }}{{ end }}
{{- end -}}

{{- define "vigorl.s3.secure" -}}
{{ and .Values.storage.s3.secure (not .Values.minio.enabled) }}
{{- end -}}

{{/* Name of the secret with `access-key` and `secret-key`. */}}
{{- define "vigorl.s3.secret" -}}
{{ if .Values.minio.enabled }}{{ include "vigorl.minio.secret" . }}{{ else }}{{ .Values.storage.s3.existingSecret }}{{ end }}
{{- end -}}

{{/* Storage settings as environment, which is the only place that the services take them from. */}}
{{- define "vigorl.env.storage" -}}
{{- if hasPrefix "s3://" (include "vigorl.storage.root" .) -}}
- {name: VIGORL_S3__ENDPOINT, value: {{ include "vigorl.s3.endpoint" . | quote }}}
- {name: VIGORL_S3__SECURE, value: {{ include "vigorl.s3.secure" . | quote }}}
- {name: VIGORL_S3__REGION, value: {{ .Values.storage.s3.region | quote }}}
{{- with include "vigorl.s3.secret" . }}
- name: VIGORL_S3__ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: access-key}}
- name: VIGORL_S3__SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: secret-key}}
{{- end }}
{{- end }}
{{- end -}}

{{/* The bearer tokens as environment. */}}
{{- define "vigorl.env.auth" -}}
{{- with .Values.auth.existingSecret -}}
- name: VIGORL_AUTH__TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
- name: VIGORL_AUTH__ADMIN_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: admin-token, optional: true}}
{{- end }}
{{- end -}}
