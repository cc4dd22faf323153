{{/*
One gRPC service: ServiceAccount, ConfigMap, headless Service, Deployment.
Takes (dict "root" $ "name" component-name "component" block).
*/}}
{{- define "vigorl.service" -}}
{{- $values := .component.values -}}
{{- $name := printf "%s-%s" (include "vigorl.fullname" .root) .name -}}
{{- $which := dict "root" .root "component" .name -}}
{{- $config := include "vigorl.config" . -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  labels: {{- include "vigorl.labels" $which | nindent 4 }}
  {{- with $values.serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels: {{- include "vigorl.labels" $which | nindent 4 }}
data:
  config.json: |
    {{- $config | nindent 4 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels: {{- include "vigorl.labels" $which | nindent 4 }}
spec:
  # Headless: a ClusterIP would pin every long-lived HTTP/2 connection to one pod.
  clusterIP: None
  selector: {{- include "vigorl.selectorLabels" $which | nindent 4 }}
  ports:
    - {name: grpc, port: 50051, targetPort: grpc, appProtocol: grpc}
    {{- if ($config | fromJson).admin }}
    - {name: grpc-admin, port: 50052, targetPort: grpc-admin, appProtocol: grpc}
    {{- end }}
    - {name: metrics, port: 9090, targetPort: metrics, appProtocol: http}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels: {{- include "vigorl.labels" $which | nindent 4 }}
spec:
  {{- if not $values.autoscaling.enabled }}
  replicas: {{ int $values.replicaCount }}
  {{- end }}
  # A rollout has not failed while a pod may still load its model, or wait for it.
  progressDeadlineSeconds: {{ add (int $values.startupSeconds) (ternary (int .root.Values.modelCache.timeoutSeconds) 0 (hasKey $values "cached")) 300 }}
  selector:
    matchLabels: {{- include "vigorl.selectorLabels" $which | nindent 6 }}
  strategy:
    {{- if $values.strategy }}
    {{- toYaml $values.strategy | nindent 4 }}
    {{- else if int $values.gpus }}
    # There is no spare GPU to surge onto.
    rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
    {{- else }}
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
    {{- end }}
  template:
    metadata:
      # Without versions: a chart that changes nothing else restarts nothing.
      labels:
        {{- include "vigorl.selectorLabels" $which | nindent 8 }}
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/config: {{ sha256sum $config }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ $name }}
      {{- include "vigorl.pod" . | trim | nindent 6 }}
      {{- with list (include "vigorl.modelCache.initContainer" .) (include "vigorl.development.initContainer" .) | compact }}
      initContainers:
        {{- range . }}
        {{- . | nindent 8 }}
        {{- end }}
      {{- end }}
      containers:
        - {{ include "vigorl.container" (mergeOverwrite (dict "config" ($config | fromJson)) .) | nindent 10 | trim }}
      volumes:
        - name: config
          configMap: {name: {{ $name }}}
        {{- include "vigorl.volumes" . | nindent 8 }}
{{- end -}}

{{/* Security and placement of a pod. */}}
{{- define "vigorl.pod" -}}
{{- $values := .component.values -}}
automountServiceAccountToken: false
# Service links would put variables of the cluster's making among the VIGORL_* settings.
enableServiceLinks: false
{{- with $values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "vigorl.podSecurity" .root | nindent 2 }}
terminationGracePeriodSeconds: {{ int $values.terminationGracePeriodSeconds }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "runtimeClassName" "priorityClassName" }}
{{- with index $values $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ mergeOverwrite (dict "labelSelector" (dict "matchLabels" (include "vigorl.selectorLabels" (dict "root" $.root "component" $.name) | fromYaml))) . | toYaml | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The one container; takes what "vigorl.service" takes, and "config", the service's own. */}}
{{- define "vigorl.container" -}}
{{- $values := .component.values -}}
{{- /* The kubelet's probes speak no TLS: under it they ask a listener that answers health checks alone. */ -}}
{{- $port := ternary 50053 50051 (not (empty .root.Values.tls.existingSecret)) -}}
name: {{ .component.role }}
image: {{ include "vigorl.image" (dict "root" .root "image" $values.image) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [python, -m, vigorl_services.{{ .component.role }}]
args: [--config, /etc/vigorl/config.json]
ports:
  - {name: grpc, containerPort: 50051}
  {{- if .config.admin }}
  - {name: grpc-admin, containerPort: 50052}
  {{- end }}
  - {name: metrics, containerPort: 9090}
env: {{- include "vigorl.env" . | trim | default "[]" | nindent 2 }}
startupProbe:
  grpc: {port: {{ $port }}}
  periodSeconds: 5
  failureThreshold: {{ div (add (int $values.startupSeconds) 4) 5 }}
readinessProbe:
  grpc: {port: {{ $port }}}
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  grpc: {port: {{ $port }}, service: liveness}
  periodSeconds: 20
  timeoutSeconds: 5
lifecycle:
  # Clients hear of the leaving pod before its listener closes.
  preStop: {sleep: {seconds: 5}}
resources: {{- include "vigorl.resources" $values | nindent 2 }}
securityContext: {{- include "vigorl.containerSecurity" .root | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/vigorl/config.json, subPath: config.json, readOnly: true}
  {{- include "vigorl.mounts" . | nindent 2 }}
{{- end -}}

{{- define "vigorl.env" -}}
{{- include "vigorl.env.storage" .root }}
{{ include "vigorl.env.auth" .root }}
{{- if and (eq .component.role "environment") .root.Values.auth.existingSecret }}
- name: VIGORL_STATE__KEY
  valueFrom: {secretKeyRef: {name: {{ .root.Values.auth.existingSecret }}, key: state-key}}
{{- end }}
{{- with (.component.values.openai | default dict).existingSecret }}
- name: VIGORL_OPENAI__API_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.component.values.openai.key }}}}
{{- end }}
{{- with .component.values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Resources with whole GPUs as a limit. */}}
{{- define "vigorl.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if int .gpus -}}
{{- $_ := set $resources "limits" (mergeOverwrite ($resources.limits | default dict) (dict "nvidia.com/gpu" (int .gpus))) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Volumes beside the settings, and below where they are mounted: the same switches in both. */}}
{{- define "vigorl.volumes" -}}
{{- $values := .component.values -}}
- {name: tmp, emptyDir: {sizeLimit: {{ $values.scratchSize }}}}
{{- with $values.shmSize }}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ . }}}}
{{- end }}
{{- with .root.Values.tls.existingSecret }}
- {name: tls, secret: {secretName: {{ . }}}}
{{- end }}
{{- with .root.Values.storage.existingClaim }}
- {name: storage, persistentVolumeClaim: {claimName: {{ . }}}}
{{- end }}
{{- include "vigorl.modelCache.volume" . }}
{{- include "vigorl.development.volume" . }}
{{- with $values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "vigorl.mounts" -}}
{{- $values := .component.values -}}
- {name: tmp, mountPath: /tmp}
{{- if $values.shmSize }}
- {name: shm, mountPath: /dev/shm}
{{- end }}
{{- if .root.Values.tls.existingSecret }}
- {name: tls, mountPath: /etc/vigorl/tls, readOnly: true}
{{- end }}
{{- if .root.Values.storage.existingClaim }}
- {name: storage, mountPath: {{ .root.Values.storage.root }}}
{{- end }}
{{- include "vigorl.modelCache.mount" . }}
{{- include "vigorl.development.mount" . }}
{{- with $values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A replica takes minutes to load: one is given up only after ten quiet minutes. */}}
{{- define "vigorl.policyScaling" -}}
scaleDown:
  stabilizationWindowSeconds: 600
  policies: [{type: Pods, value: 1, periodSeconds: 60}]
{{- end -}}
