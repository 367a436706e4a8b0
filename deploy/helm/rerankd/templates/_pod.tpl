{{- /* What every container and pod here has. */}}

{{- define "rerankd.podSecurity" -}}
runAsNonRoot: true
{{- range $name, $value := .Values.podSecurityContext }}
{{ $name }}: {{ include "rerankd.text" $value }}
{{- end }}
{{- if .Values.podSecurityContext.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "rerankd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* The same for the init containers: a pod asks for the most of either, and so for no more. */}}
{{- define "rerankd.resources" -}}
{{- with .Values.resources -}}
requests:
  cpu: {{ include "rerankd.text" .cpu | quote }}
  memory: {{ .memory }}
  {{- with .ephemeralStorage }}
  ephemeral-storage: {{ . }}
  {{- end }}
limits:
  {{- if .cpuLimit }}
  cpu: {{ include "rerankd.text" .cpu | quote }}
  {{- end }}
  memory: {{ .memory }}
  {{- with .ephemeralStorage }}
  ephemeral-storage: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "rerankd.initContainers" -}}
{{- if .Values.modelVolume.fetch.command }}
- name: fetch
  image: {{ .Values.modelVolume.fetch.image | default (include "rerankd.image" .) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: {{ toJson .Values.modelVolume.fetch.command }}
  {{- with .Values.modelVolume.fetch.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  resources:
    {{- include "rerankd.resources" . | nindent 4 }}
  securityContext:
    {{- include "rerankd.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - name: fetch-tmp
      mountPath: /tmp
    - name: models
      mountPath: /models
{{- end }}
{{- $sums := list }}
{{- range .Values.models }}
{{- $path := .path }}
{{- range $file, $sum := .sha256 }}{{ $sums = append $sums (printf "%s  /models/%s/%s\n" $sum $path $file) }}{{ end }}
{{- end }}
{{- with $sums }}
# The server itself takes the files as they are. A digest that differs keeps the pod from starting.
- name: verify
  image: {{ include "rerankd.image" $ }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  command: [sh, -c, 'printf %s "$SUMS" | sha256sum --check --strict']
  env:
    - name: SUMS
      value: {{ join "" . | quote }}
  resources:
    {{- include "rerankd.resources" $ | nindent 4 }}
  securityContext:
    {{- include "rerankd.containerSecurity" $ | nindent 4 }}
  volumeMounts:
    {{- include "rerankd.modelMount" $ | nindent 4 }}
{{- end }}
{{- end }}

{{- define "rerankd.spread" -}}
{{- range $key, $when := dict "topology.kubernetes.io/zone" .Values.spreadByZone "kubernetes.io/hostname" .Values.spreadByHost }}
{{- if $when }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: {{ $when }}
  labelSelector:
    matchLabels:
      {{- include "rerankd.selector" $ | nindent 6 }}
  # In a rollout, the new pods among themselves.
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end }}
