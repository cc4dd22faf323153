{{/* The optional MinIO, as the other templates see it; each takes the root context. */}}
{{- define "vigorl.minio.name" -}}
{{ include "vigorl.fullname" . }}-minio
{{- end -}}

{{/* Secret with `root-user`, `root-password`, `access-key` and `secret-key`. */}}
{{- define "vigorl.minio.secret" -}}
{{ .Values.minio.existingSecret | default (include "vigorl.minio.name" .) }}
{{- end -}}

{{- define "vigorl.minio.bucket" -}}
{{ index (splitList "/" (trimPrefix "s3://" .Values.storage.root)) 0 }}
{{- end -}}

{{- define "vigorl.validate.minio" -}}
{{- if .Values.minio.enabled -}}
{{- if not (hasPrefix "s3://" .Values.storage.root) -}}
{{- fail (printf "minio.enabled needs an s3:// storage.root, whose bucket it makes; found %s" .Values.storage.root) -}}
{{- end -}}
{{- if or .Values.storage.s3.endpoint .Values.storage.s3.existingSecret -}}
{{- fail "minio.enabled sets storage.s3.endpoint and storage.s3.existingSecret itself: leave them empty, or disable minio" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Security of pods whose image is not ours: the same restrictions, and a uid that any image runs under. */}}
{{- define "vigorl.minio.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.minio.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "vigorl.podSecurity" . | nindent 2 }}
{{- with .Values.minio.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.minio.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What makes bucket, user and policy. Its hash is part of the job's name, since a job's pod cannot be changed. */}}
{{- define "vigorl.minio.setupPod" -}}
{{- include "vigorl.minio.pod" . }}
restartPolicy: OnFailure
containers:
  - name: setup
    image: {{ include "vigorl.image" (dict "root" . "image" .Values.minio.clientImage) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [sh, /etc/vigorl/setup.sh]
    env:
      - {name: ENDPOINT, value: {{ printf "http://%s" (include "vigorl.s3.endpoint" .) | quote }}}
      - {name: BUCKET, value: {{ include "vigorl.minio.bucket" . | quote }}}
      - {name: POLICY, value: {{ include "vigorl.fullname" . | quote }}}
      - {name: MC_CONFIG_DIR, value: /tmp/mc}
      {{- range $variable, $key := dict "ROOT_USER" "root-user" "ROOT_PASSWORD" "root-password" "ACCESS_KEY" "access-key" "SECRET_KEY" "secret-key" }}
      - name: {{ $variable }}
        valueFrom: {secretKeyRef: {name: {{ include "vigorl.minio.secret" $ }}, key: {{ $key }}}}
      {{- end }}
    resources:
      requests: {cpu: 50m, memory: 64Mi}
      limits: {memory: 256Mi}
    securityContext: {{- include "vigorl.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: setup, mountPath: /etc/vigorl, readOnly: true}
      - {name: tmp, mountPath: /tmp}
volumes:
  - name: setup
    configMap: {name: {{ include "vigorl.minio.name" . }}}
  - {name: tmp, emptyDir: {}}
{{- end -}}
