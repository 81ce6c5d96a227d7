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

{{- define "mrelease.controllerSelector" -}}
app.kubernetes.io/name: {{ include "mrelease.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "mrelease.controllerLabels" -}}
{{ include "mrelease.controllerSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* The controller's configuration file. */}}
{{- define "mrelease.controllerConfig" -}}
{{- mergeOverwrite (dict "version" 1) (deepCopy .Values.controller.config) | toYaml }}
{{- end }}

{{/* Everybody for whom the chart makes a certificate. */}}
{{- define "mrelease.clients" -}}
{{- $clients := .Values.tls.clients }}
{{- if .Values.controller.enabled }}{{ $clients = append $clients .Values.controller.client | uniq }}{{ end }}
{{- $clients | toJson }}
{{- end }}

{{/* The access policy of the agents: the controller gets what it needs, and a kill only where its configuration has one. */}}
{{- define "mrelease.policy" -}}
{{- $policy := deepCopy .Values.policy }}
{{- if .Values.controller.enabled }}
{{- $callers := list (dict "cn" .Values.controller.client) }}
{{- $kinds := list "pod" "container" }}
{{- $rules := list (dict "name" "controller" "callers" $callers "methods" (list "Release" "ListProcesses") "targets" (dict "kinds" $kinds)) }}
{{- $kill := dig "namespaces" "kill" list .Values.controller.config }}
{{- if $kill }}
{{- $rules = append $rules (dict "name" "controller-kill" "callers" $callers "methods" (list "KillAndRelease") "targets" (dict "kinds" (list "pod") "namespaces" $kill)) }}
{{- end }}
{{- $_ := set $policy "rules" (concat $policy.rules $rules) }}
{{- end }}
{{- toYaml $policy }}
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
