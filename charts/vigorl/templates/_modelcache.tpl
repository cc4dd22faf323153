{{/*
The model cache: one claim with a folder per model and digest, which a job fills and policies read. A policy says
`model: cache://NAME`.
*/}}
{{- define "vigorl.modelCache.claim" -}}
{{ .Values.modelCache.existingClaim | default (printf "%s-models" (include "vigorl.fullname" .)) }}
{{- end -}}

{{/* Folder of a model: another digest is another folder, so that a rollout never meets half of each. */}}
{{- define "vigorl.modelCache.folder" -}}
/models/{{ .name }}-{{ trimPrefix "sha256:" .model.digest | trunc 12 }}
{{- end -}}

{{/*
Turns `cache://NAME` in a policy's merged values into the folder and notes the model there as `cached`.
Takes (dict "root" $ "policy" name "values" block), prints nothing.
*/}}
{{- define "vigorl.modelCache.resolve" -}}
{{- $policy := .values.config.policy | default dict -}}
{{- if hasPrefix "cache://" ($policy.model | default "") -}}
{{- $name := trimPrefix "cache://" $policy.model -}}
{{- $models := .root.Values.modelCache.models -}}
{{- if not (and .root.Values.modelCache.enabled (hasKey $models $name)) -}}
{{- fail (printf "policies.%s.config.policy.model is %s: set modelCache.enabled=true and describe the model in modelCache.models.%s (there: %s)" .policy $policy.model $name (keys $models | sortAlpha | join ", " | default "none")) -}}
{{- end -}}
{{- $model := index $models $name -}}
{{- $folder := include "vigorl.modelCache.folder" (dict "name" $name "model" $model) -}}
{{- $_ := set $policy "model" $folder -}}
{{- $_ := set .values "cached" (dict "folder" $folder "digest" $model.digest) -}}
{{- end -}}
{{- end -}}

{{/* Of a policy's pod, whose model may still be on its way; takes what "vigorl.service" takes. */}}
{{- define "vigorl.modelCache.initContainer" -}}
{{- with .component.values.cached -}}
- name: model
  image: {{ include "vigorl.image" (dict "root" $.root "image" $.component.values.image) }}
  imagePullPolicy: {{ $.root.Values.image.pullPolicy }}
  command: [python, -m, vigorl_lib.cli.main, models, wait]
  args: [{{ .folder }}, {{ printf "--digest=%s" .digest }}, {{ printf "--timeout-s=%d" (int $.root.Values.modelCache.timeoutSeconds) }}]
  resources:
    requests: {cpu: 100m, memory: 128Mi}
    limits: {memory: 512Mi}
  securityContext: {{- include "vigorl.containerSecurity" $.root | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: models, mountPath: /models, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "vigorl.modelCache.volume" -}}
{{- if .component.values.cached }}
- name: models
  persistentVolumeClaim: {claimName: {{ include "vigorl.modelCache.claim" .root }}}
{{- end }}
{{- end -}}

{{- define "vigorl.modelCache.mount" -}}
{{- if .component.values.cached }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end -}}

{{/* The pod that fetches a model; takes (dict "root" $ "name" model-name "model" block). */}}
{{- define "vigorl.modelCache.pod" -}}
{{- $cache := .root.Values.modelCache -}}
{{- $hub := hasPrefix "hf://" .model.source -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.componentDefaults.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "vigorl.podSecurity" .root | nindent 2 }}
restartPolicy: OnFailure
{{- with $cache.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $cache.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: fetch
    image: {{ include "vigorl.image" (dict "root" .root "image" $cache.image) }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: [python, -m, vigorl_lib.cli.main, models, fetch]
    args:
      - {{ .model.source | quote }}
      - {{ include "vigorl.modelCache.folder" . }}
      - {{ printf "--digest=%s" .model.digest }}
      {{- with .model.revision }}
      - {{ printf "--revision=%s" . }}
      {{- end }}
    env:
      {{- if $hub }}
      # The image says 1: only this pod may ask the Hub.
      - {name: HF_HUB_OFFLINE, value: "0"}
      {{- with $cache.hub.endpoint }}
      - {name: HF_ENDPOINT, value: {{ . | quote }}}
      {{- end }}
      {{- with $cache.hub.existingSecret }}
      - name: HF_TOKEN
        valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
      {{- end }}
      {{- else }}
      {{- include "vigorl.env.storage" .root | nindent 6 }}
      {{- end }}
    resources: {{- toYaml $cache.resources | nindent 6 }}
    securityContext: {{- include "vigorl.containerSecurity" .root | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models}
      - {name: tmp, mountPath: /tmp}
volumes:
  - name: models
    persistentVolumeClaim: {claimName: {{ include "vigorl.modelCache.claim" .root }}}
  - {name: tmp, emptyDir: {}}
{{- end -}}

{{- define "vigorl.validate.modelCache" -}}
{{- if .Values.modelCache.enabled -}}
{{- range $name, $model := .Values.modelCache.models -}}
{{- $hub := hasPrefix "hf://" $model.source -}}
{{- if and $hub (not $model.revision) -}}
{{- fail (printf "modelCache.models.%s comes from the Hub: set its revision to a commit of 40 hex digits" $name) -}}
{{- else if and $model.revision (not $hub) -}}
{{- fail (printf "modelCache.models.%s: %s has no revisions, leave it out" $name $model.source) -}}
{{- end -}}
{{- if and (hasPrefix "s3://" $model.source) (not (hasPrefix "s3://" $.Values.storage.root)) -}}
{{- fail (printf "modelCache.models.%s comes from %s, and storage.root is no bucket: the endpoint is unknown" $name $model.source) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
