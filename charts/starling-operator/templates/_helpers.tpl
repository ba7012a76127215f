{{- /* Names of this release's objects: the release's name, with the chart's unless it is in it. */}}
{{- define "starling-operator.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "starling-operator.service-account" -}}
{{ .Values.serviceAccount.name | default (include "starling-operator.name" .) }}
{{- end }}

{{- define "starling-operator.selector" -}}
app.kubernetes.io/name: starling-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "starling-operator.labels" -}}
{{ include "starling-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
