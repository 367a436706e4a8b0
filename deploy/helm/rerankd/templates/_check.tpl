{{- /* What the schema can't say: values that are of no use together, each with a sentence. */}}
{{- define "rerankd.check" -}}
{{- $volume := .Values.modelVolume }}
{{- $sources := compact (list $volume.existingClaim $volume.image.reference (join " " $volume.fetch.command)) }}
{{- $directories := include "rerankd.modelPaths" . | fromYamlArray }}
{{- if gt (len $sources) 1 }}
{{- fail "modelVolume: existingClaim, image.reference and fetch.command are three ways to the same volume; give one of them" }}
{{- end }}
{{- if and $directories (not $sources) }}
{{- fail "models: a path is a directory of modelVolume, which is none; give its existingClaim, image.reference or fetch.command" }}
{{- end }}
{{- if and $sources (not $directories) }}
{{- fail "modelVolume: no model has a path in it; name its directories in models, as {path: DIR}" }}
{{- end }}
{{- if and $volume.subPath (not $volume.existingClaim) }}
{{- fail "modelVolume.subPath: is a directory of existingClaim, which is not given" }}
{{- end }}
{{- if and .Values.tls.clientCA.secretName (not .Values.tls.secretName) }}
{{- fail "tls.clientCA.secretName: callers have no certificates without TLS; give tls.secretName too" }}
{{- end }}
{{- if and .Values.service.appProtocol .Values.tls.secretName }}
{{- fail "service.appProtocol: kubernetes.io/h2c is HTTP/2 without TLS, and tls.secretName is given; leave one out" }}
{{- end }}
{{- if and .Values.grpcRoute.enabled (not .Values.service.clusterIP.enabled) }}
{{- fail "grpcRoute.enabled: it leads to the ClusterIP Service; set service.clusterIP.enabled too" }}
{{- end }}
{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.parentRefs) }}
{{- fail "grpcRoute.parentRefs: a route without a gateway leads nowhere; name the gateway" }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if and (eq .by "keda") (not .keda.serverAddress) }}
{{- fail "autoscaling.keda.serverAddress: KEDA asks Prometheus for the queue; say where that is" }}
{{- end }}
{{- if and (ne .by "none") (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail "autoscaling.minReplicas: is more than maxReplicas" }}
{{- end }}
{{- end }}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.egress) }}
{{- if $volume.fetch.command }}
{{- fail "networkPolicy.egress: modelVolume.fetch connects to somewhere, and the policy lets nothing out; say where to, or set networkPolicy.enabled to false" }}
{{- end }}
{{- if .Values.settings.otlp_endpoint }}
{{- fail "networkPolicy.egress: settings.otlp_endpoint is to be connected to, and the policy lets nothing out; say where to, or set networkPolicy.enabled to false" }}
{{- end }}
{{- end }}
{{- end }}
