package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Whatever a caller sends, it gets an answer, and an error is JSON with a text.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "/connect", []byte(`{"targets":["host1"],"replace":true}`), "application/json")
	f.Add("POST", "/connect", []byte(`{"targets":[]} {}`), "")
	f.Add("POST", "/connect", []byte(``), "text/plain")
	f.Add("PUT", "/name/web/10.32.0.1?fqdn=a.weft.local&fqdn=%zz", []byte("null"), "application/json;q=x")
	f.Add("GET", "/name/%2f..%2f/;/?fqdn=a;b", []byte(nil), ",,")
	op := func(_ context.Context, r *Request) (any, error) {
		var in struct {
			Targets []string `json:"targets"`
			Replace bool     `json:"replace"`
		}
		if err := r.JSON(&in); err != nil {
			return nil, err
		}
		return in, nil
	}
	read := func(_ context.Context, r *Request) (any, error) {
		if r.WantsJSON() {
			return append(r.QueryAll("fqdn"), r.Path("container"), r.Path("ip")), nil
		}
		return r.Query("fqdn"), nil
	}
	all, reads, err := handlers([]Route{
		{"POST", "/connect", false, op},
		{"PUT", "/name/{container}/{ip}", false, read},
		{"GET", "/name/{container}/{ip}", true, read},
	}, newMetrics(nil), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, url string, body []byte, accept string) {
		req, err := http.NewRequest(method, url, strings.NewReader(string(body)))
		if err != nil || req.URL.Path == "/metrics" {
			return // net/http refuses it before us
		}
		req.Header.Set("Accept", accept)
		for _, h := range []http.Handler{all, reads} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			var e errorBody
			if w.Code >= 500 || w.Code >= 400 && (json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Error == "") {
				t.Errorf("%s %q: %d %q", method, url, w.Code, w.Body)
			}
		}
	})
}
