package main

import (
	"encoding/json"
	"errors"
	"reflect"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"weft/router"
)

// The template of `weft report -f`: its function json, and text/template's
// complaints in an operator's words.

func toJSON(v any) (string, error) {
	if l := reflect.ValueOf(v); l.Kind() == reflect.Slice && l.IsNil() {
		return "[]", nil
	}
	b, err := json.Marshal(v)
	return string(withoutNulls(b)), err
}

var (
	templatePlace = regexp.MustCompile(`^template: report:[0-9:]+ (executing "report" at )?`)
	noField       = regexp.MustCompile(`^<(.*)>: can't evaluate field (\w+) in type (\S+)$`)
	nilPart       = regexp.MustCompile(`nil pointer evaluating \*router\.(\w+)Report\.`)
)

// parseTemplateError is the answer to a template that is not one.
func parseTemplateError(cmd *cobra.Command, err error) error {
	return usageHint(cmd, "for example: weft report -f '{{.Router.ID}}'", "-f: %s", templatePlace.ReplaceAllString(err.Error(), ""))
}

// execTemplateError is the answer to a template that does not fit the report.
func execTemplateError(cmd *cobra.Command, err error) error {
	text := templatePlace.ReplaceAllString(err.Error(), "")
	if m := noField.FindStringSubmatch(text); m != nil {
		path, field, in := m[1], m[2], m[3]
		if strings.HasPrefix(in, "[]") {
			list := strings.TrimSuffix(path, "."+field)
			return usageHint(cmd, "{{range "+list+"}}{{."+field+"}} {{end}} goes through it", "-f: %s is a list", list)
		}
		fields := fieldsOf(reflect.TypeFor[router.Report](), strings.TrimPrefix(in, "*"))
		hint := "weft report shows all fields"
		if len(fields) > 0 {
			hint = "the fields there are " + strings.Join(fields, ", ")
		}
		if meant := didYouMean(field, fields); meant != "" {
			hint = meant + "\n" + hint
		}
		return usageHint(cmd, hint, "-f: the report has no field %s", path)
	}
	if m := nilPart.FindStringSubmatch(text); m != nil {
		return fail("{{with ."+m[1]+"}}…{{end}} prints nothing then", "-f: the report has no part %s: the router runs without it", m[1])
	}
	return fail("weft report shows all fields", "-f: %w", errors.New(text))
}

// fieldsOf lists the fields of the type of that name, within t.
func fieldsOf(t reflect.Type, name string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.PkgPath() != reflect.TypeFor[router.Report]().PkgPath() {
		return nil
	}
	var names []string
	for i := range t.NumField() {
		names = append(names, t.Field(i).Name)
	}
	if t.String() == name {
		return names
	}
	for i := range t.NumField() {
		if found := fieldsOf(t.Field(i).Type, name); found != nil {
			return found
		}
	}
	return nil
}
