{{/*
Code on a volume of the pod, which `skaffold dev` writes changed files to. A volume outlives the container's restarts,
and the root file system stays read-only. All take what "vigorl.service" takes.
*/}}
{{- define "vigorl.development.initContainer" -}}
{{- if .root.Values.development.syncCode -}}
- name: code
  image: {{ include "vigorl.image" (dict "root" .root "image" .component.values.image) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  # The entries, not the folder: /code itself belongs to root, and cp would fail on giving it its source's times.
  command: [sh, -c, cp -a /opt/vigorl/* /code/]
  resources:
    requests: {cpu: 100m, memory: 64Mi}
    limits: {memory: 256Mi}
  securityContext: {{- include "vigorl.containerSecurity" .root | nindent 4 }}
  volumeMounts:
    - {name: code, mountPath: /code}
{{- end -}}
{{- end -}}

{{- define "vigorl.development.volume" -}}
{{- if .root.Values.development.syncCode }}
- {name: code, emptyDir: {}}
{{- end }}
{{- end -}}

{{- define "vigorl.development.mount" -}}
{{- if .root.Values.development.syncCode }}
- {name: code, mountPath: /opt/vigorl}
{{- end }}
{{- end -}}
