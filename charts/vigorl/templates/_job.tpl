{{/*
A PyTorchJob that runs the trainer under torchrun. The operator sets PET_* and MASTER_*, so the command
needs no rendezvous flags. Takes (dict "root" $ "name" name "job" block).
*/}}
{{- define "vigorl.pytorchjob" -}}
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: {{ include "vigorl.fullname" .root }}-{{ .job.runId }}
  labels: {{- include "vigorl.labels" (dict "root" .root "component" "trainer") | nindent 4 }}
spec:
  nprocPerNode: {{ max 1 (int .job.gpusPerNode) | quote }}
  runPolicy:
    cleanPodPolicy: Running
    backoffLimit: {{ .job.backoffLimit }}
    ttlSecondsAfterFinished: {{ .job.ttlSecondsAfterFinished }}
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: OnFailure
      template: {{- include "vigorl.trainerPod" . | nindent 8 }}
    {{- if gt (int .job.workers) 0 }}
    Worker:
      replicas: {{ .job.workers }}
      restartPolicy: OnFailure
      template: {{- include "vigorl.trainerPod" . | nindent 8 }}
    {{- end }}
{{- end -}}

{{- define "vigorl.trainerPod" -}}
{{- $targets := dict -}}
{{- $admin := dict -}}
{{- $root := .root -}}
{{- range $name, $policy := .root.Values.policies -}}
{{- $_ := set $targets $name (include "vigorl.target" (dict "root" $root "component" (printf "policy-%s" $name))) -}}
{{- if ($policy.config | default dict).trainable_by -}}
{{- $_ := set $admin $name (include "vigorl.target" (dict "root" $root "component" (printf "policy-%s" $name) "port" 50052)) -}}
{{- end -}}
{{- end -}}
metadata:
  labels: {{- include "vigorl.labels" (dict "root" .root "component" "trainer") | nindent 4 }}
spec:
  automountServiceAccountToken: false
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "vigorl.podSecurity" .root | nindent 4 }}
  containers:
    # The operator's webhook refuses any other name.
    - name: pytorch
      image: {{ include "vigorl.image" (dict "root" .root "image" .job.image) }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: [torchrun, -m, vigorl_services.trainer]
      args:
        - {{ .job.stage }}
        - --recipe={{ .job.recipe }}
        - --set=root={{ .root.Values.storage.root }}
        - --set=run_id={{ .job.runId }}
        {{- range $name, $target := $targets }}
        - --set=services.policies.{{ $name }}={{ $target }}
        {{- end }}
        {{- range $name, $target := $admin }}
        - --set=services.policy_admin.{{ $name }}={{ $target }}
        {{- end }}
        - --set=services.environment={{ include "vigorl.target" (dict "root" .root "component" "environment") }}
        - --set=services.reward={{ include "vigorl.target" (dict "root" .root "component" "reward") }}
        {{- range .job.set }}
        - {{ printf "--set=%s" . | quote }}
        {{- end }}
      env:
        {{- include "vigorl.env" .root | nindent 8 }}
        {{- with .root.Values.auth.existingSecret }}
        - name: VIGORL_AUTH__TOKEN
          valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
        - name: VIGORL_AUTH__ADMIN_TOKEN
          valueFrom: {secretKeyRef: {name: {{ . }}, key: admin-token, optional: true}}
        {{- end }}
        {{- with .job.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      resources: {{- toYaml (include "vigorl.resources" (dict "values" .job "gpus" (int .job.gpusPerNode)) | fromYaml) | nindent 8 }}
      securityContext: {{- include "vigorl.containerSecurity" .root | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
  volumes:
    - {name: tmp, emptyDir: {}}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ .job.shmSize }}}
  {{- with .job.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .job.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
