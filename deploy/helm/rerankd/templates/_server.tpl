{{- /* The server's settings and files. */}}

{{- /* A number as it is written: 1000000 comes out of YAML as a float, which prints as 1e+06. */}}
{{- define "rerankd.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "rerankd.ceil" -}}
{{ ceil (. | float64) | int64 }}
{{- end }}

{{- define "rerankd.modelPaths" -}}
{{- $paths := list }}
{{- range .Values.models }}{{ with .path }}{{ $paths = append $paths . }}{{ end }}{{ end }}
{{- toYaml $paths }}
{{- end }}

{{- /* Settings by name, as a YAML map of strings. */}}
{{- define "rerankd.settings" -}}
{{- $all := dict }}
{{- $models := list }}
{{- $aliases := list }}
{{- range .Values.models }}
{{- $model := .embedded | default (printf "/models/%s" .path) }}
{{- $models = append $models $model }}
{{- range .aliases }}{{ $aliases = append $aliases (printf "%s=%s" . $model) }}{{ end }}
{{- end }}
{{- if $models }}{{ $_ := set $all "model" (join "," $models) }}{{ end }}
{{- if $aliases }}{{ $_ := set $all "alias" (join "," $aliases) }}{{ end }}
{{- if gt (int .Values.gpu.count) 0 }}{{ $_ := set $all "device" "cuda" }}{{ end }}
{{- if not .Values.resources.cpuLimit }}{{ $_ := set $all "threads" (include "rerankd.text" .Values.resources.cpu) }}{{ end }}
{{- if not .Values.http.enabled }}{{ $_ := set $all "http" "" }}{{ end }}
{{- with .Values.tls }}
{{- if .secretName }}
{{- $_ := set $all "tls_cert" (printf "/secrets/tls/%s" .certKey) }}
{{- $_ := set $all "tls_key" (printf "/secrets/tls/%s" .keyKey) }}
{{- end }}
{{- if .clientCA.secretName }}{{ $_ := set $all "tls_client_ca" (printf "/secrets/client-ca/%s" .clientCA.key) }}{{ end }}
{{- end }}
{{- with .Values.tokens }}
{{- if .secretName }}{{ $_ := set $all "token_file" (printf "/secrets/tokens/%s" .key) }}{{ end }}
{{- end }}
{{- range $name, $value := .Values.settings }}{{ $_ := set $all $name (include "rerankd.text" $value) }}{{ end }}
{{- toYaml $all }}
{{- end }}

{{- define "rerankd.env" -}}
# So that no pod downloads a model by accident.
- name: HF_HUB_OFFLINE
  value: "1"
{{- range $name, $value := include "rerankd.settings" . | fromYaml }}
- name: RERANKD_{{ upper $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "rerankd.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "rerankd.modelPaths" . | fromYamlArray }}
{{ include "rerankd.modelMount" . }}
{{- end }}
{{- if .Values.tls.secretName }}
- name: tls
  mountPath: /secrets/tls
  readOnly: true
{{- end }}
{{- if .Values.tls.clientCA.secretName }}
- name: client-ca
  mountPath: /secrets/client-ca
  readOnly: true
{{- end }}
{{- if .Values.tokens.secretName }}
- name: tokens
  mountPath: /secrets/tokens
  readOnly: true
{{- end }}
{{- end }}

{{- define "rerankd.modelMount" -}}
- name: models
  mountPath: /models
  readOnly: true
{{- with .Values.modelVolume.subPath }}
  subPath: {{ . }}
{{- end }}
{{- end }}

{{- define "rerankd.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- with .Values.modelVolume }}
{{- if .existingClaim }}
- name: models
  persistentVolumeClaim:
    claimName: {{ .existingClaim }}
    readOnly: true
{{- else if .image.reference }}
- name: models
  image:
    reference: {{ .image.reference }}
    pullPolicy: {{ .image.pullPolicy }}
{{- else if .fetch.command }}
- name: models
  emptyDir:
    sizeLimit: {{ .fetch.sizeLimit }}
# Its command's own /tmp, for downloads are kept there on their way.
- name: fetch-tmp
  emptyDir:
    sizeLimit: {{ .fetch.sizeLimit }}
{{- end }}
{{- end }}
{{- with .Values.tls.secretName }}
{{ include "rerankd.secret" (list $ "tls" .) }}
{{- end }}
{{- with .Values.tls.clientCA.secretName }}
{{ include "rerankd.secret" (list $ "client-ca" .) }}
{{- end }}
{{- with .Values.tokens.secretName }}
{{ include "rerankd.secret" (list $ "tokens" .) }}
{{- end }}
{{- end }}

{{- define "rerankd.secret" -}}
- name: {{ index . 1 }}
  secret:
    secretName: {{ index . 2 }}
    # The files are root's, and the group's where there is an fsGroup.
    defaultMode: {{ if (index . 0).Values.podSecurityContext.fsGroup }}0440{{ else }}0444{{ end }}
{{- end }}
