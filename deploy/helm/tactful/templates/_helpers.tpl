{{- /* Usage: include "tactful.labels" (list . "server"); the second is the component. */}}
{{- define "tactful.selector" -}}
app.kubernetes.io/name: tactful
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "tactful.labels" -}}
{{ include "tactful.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
{{- end }}

{{- define "tactful.image" -}}
{{ .Values.image | default (regexFind "(?m)^TACTFUL_IMAGE=.+$" (.Files.Get "images.env") | trimPrefix "TACTFUL_IMAGE=") }}
{{- end }}

{{- /* Of every pod: no rights, and no identity at the Kubernetes API. */}}
{{- define "tactful.pod" -}}
serviceAccountName: {{ .Release.Name }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 40
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "tactful.container" -}}
image: {{ include "tactful.image" . | quote }}
imagePullPolicy: IfNotPresent
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- /* Usage: include "tactful.probes" "http"; the argument is the name of a port. */}}
{{- define "tactful.probes" -}}
startupProbe: {httpGet: {path: /healthz, port: {{ . }}}, periodSeconds: 2, failureThreshold: 60}
livenessProbe: {httpGet: {path: /healthz, port: {{ . }}}, periodSeconds: 10, timeoutSeconds: 5}
readinessProbe: {httpGet: {path: /readyz, port: {{ . }}}, periodSeconds: 2, timeoutSeconds: 5}
{{- end }}

{{- /* What server and workers mount beside their own volumes. */}}
{{- define "tactful.mounts" -}}
- {name: data, mountPath: /data}
- {name: keys, mountPath: /keys}
- {name: secrets, mountPath: /run/secrets/tactful, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "tactful.volumes" -}}
- {name: keys, persistentVolumeClaim: {claimName: {{ .Release.Name }}-keys}}
- {name: secrets, secret: {secretName: {{ .Values.secretName }}, defaultMode: 0440}}
- {name: tmp, emptyDir: {sizeLimit: 1Gi}}
{{- end }}

{{- define "tactful.claim" -}}
- metadata: {name: data}
  spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: {{ . }}}}}
{{- end }}
