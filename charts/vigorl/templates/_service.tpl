{{/*
One gRPC service: ServiceAccount, headless Service, Deployment.
Takes (dict "root" $ "component" name "module" python-module "values" block "config" service-config).
*/}}
{{- define "vigorl.service" -}}
{{- $name := printf "%s-%s" (include "vigorl.fullname" .root) .component -}}
{{- $gpus := int (.values.gpus | default 0) -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  labels: {{- include "vigorl.labels" . | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels: {{- include "vigorl.labels" . | nindent 4 }}
data:
  config.json: {{ .config | toJson | quote }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels: {{- include "vigorl.labels" . | nindent 4 }}
spec:
  # Headless: a ClusterIP would pin every long-lived HTTP/2 connection to one pod.
  clusterIP: None
  selector: {{- include "vigorl.selectorLabels" . | nindent 4 }}
  ports:
    - {name: grpc, port: 50051, targetPort: grpc, appProtocol: grpc}
    {{- if .config.admin }}
    - {name: grpc-admin, port: 50052, targetPort: grpc-admin, appProtocol: grpc}
    {{- end }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels: {{- include "vigorl.labels" . | nindent 4 }}
spec:
  replicas: {{ .values.replicaCount }}
  selector:
    matchLabels: {{- include "vigorl.selectorLabels" . | nindent 6 }}
  {{- if $gpus }}
  # There is no spare GPU to surge onto.
  strategy:
    rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
  {{- end }}
  template:
    metadata:
      labels: {{- include "vigorl.labels" . | nindent 8 }}
      annotations:
        checksum/config: {{ .config | toJson | sha256sum }}
        {{- with .values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: false
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext: {{- include "vigorl.podSecurity" .root | nindent 8 }}
      terminationGracePeriodSeconds: 60
      containers:
        - name: {{ .module }}
          image: {{ include "vigorl.image" (dict "root" .root "image" .values.image) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [--config, /etc/vigorl/config.json, --listen, "0.0.0.0:50051", --metrics-port, "9090"]
          ports:
            - {name: grpc, containerPort: 50051}
            {{- if .config.admin }}
            # New weights come in here: what may reach it is for a network policy to say.
            - {name: grpc-admin, containerPort: 50052}
            {{- end }}
            - {name: metrics, containerPort: 9090}
          env:
            {{- include "vigorl.env" .root | nindent 12 }}
            {{- with .root.Values.auth.existingSecret }}
            - name: VIGORL_AUTH__TOKEN
              valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
            - name: VIGORL_AUTH__ADMIN_TOKEN
              valueFrom: {secretKeyRef: {name: {{ . }}, key: admin-token, optional: true}}
            - name: VIGORL_STATE__KEY
              valueFrom: {secretKeyRef: {name: {{ . }}, key: state-key}}
            {{- end }}
            {{- with .values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          startupProbe:
            grpc: {port: 50051}
            periodSeconds: 10
            failureThreshold: {{ div (int (.values.startupSeconds | default 60)) 10 }}
          readinessProbe:
            grpc: {port: 50051}
            periodSeconds: 5
          livenessProbe:
            grpc: {port: 50051, service: liveness}
            periodSeconds: 20
            timeoutSeconds: 5
          resources: {{- toYaml (include "vigorl.resources" (dict "values" .values "gpus" $gpus) | fromYaml) | nindent 12 }}
          securityContext: {{- include "vigorl.containerSecurity" .root | nindent 12 }}
          volumeMounts:
            - {name: config, mountPath: /etc/vigorl, readOnly: true}
            - {name: tmp, mountPath: /tmp}
            {{- if .values.shmSize }}
            - {name: shm, mountPath: /dev/shm}
            {{- end }}
      volumes:
        - name: config
          configMap: {name: {{ $name }}}
        - {name: tmp, emptyDir: {}}
        {{- if .values.shmSize }}
        - name: shm
          emptyDir: {medium: Memory, sizeLimit: {{ .values.shmSize }}}
        {{- end }}
      {{- with .values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}

{{/* Resources with whole GPUs added to the limits. */}}
{{- define "vigorl.resources" -}}
{{- $resources := deepCopy .values.resources -}}
{{- if .gpus -}}
{{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" .gpus) ($resources.limits | default dict)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
