{{- define "mrelease.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "mrelease.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "mrelease.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "mrelease.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "mrelease.selector" -}}
app.kubernetes.io/name: {{ include "mrelease.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{- define "mrelease.labels" -}}
{{ include "mrelease.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "mrelease.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "mrelease.serverSecret" -}}
{{- if eq .Values.tls.mode "existing" -}}
{{- required "tls.existing.serverSecret: name the Secret with ca.crt, tls.crt and tls.key" .Values.tls.existing.serverSecret }}
{{- else -}}
{{ include "mrelease.fullname" . }}-server
{{- end }}
{{- end }}

{{/* Name by which callers know every agent of the release, whichever address they reach it at. */}}
{{- define "mrelease.serverName" -}}
{{ include "mrelease.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "mrelease.dnsNames" -}}
{{- concat (list (include "mrelease.serverName" .) (printf "*.%s" (include "mrelease.serverName" .))) .Values.tls.extraDnsNames | toJson }}
{{- end }}
