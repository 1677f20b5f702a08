package api

import (
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Sample is one value for Prometheus. All samples of one name have the same
// help, kind and label names.
type Sample struct {
	Name    string // such as "weft_peers"
	Help    string
	Counter bool // only ever rises; otherwise a gauge
	Labels  map[string]string
	Value   float64
}

// metrics is a registry of this server's own.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
}

// newMetrics registers the process's own figures and, when samples is not nil,
// what it returns at each scrape.
func newMetrics(samples func() []Sample) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_api_requests_total", Help: "Requests answered, by operation and HTTP status.",
		}, []string{"operation", "code"}),
	}
	m.registry.MustRegister(m.requests, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if samples != nil {
		m.registry.MustRegister(sampler(samples))
	}
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// sampler is an unchecked collector: what it collects is known at the scrape.
type sampler func() []Sample

func (sampler) Describe(chan<- *prometheus.Desc) {}

func (s sampler) Collect(out chan<- prometheus.Metric) {
	for _, x := range s() {
		names := make([]string, 0, len(x.Labels))
		for n := range x.Labels {
			names = append(names, n)
		}
		slices.Sort(names)
		values := make([]string, len(names))
		for i, n := range names {
			values[i] = x.Labels[n]
		}
		kind := prometheus.GaugeValue
		if x.Counter {
			kind = prometheus.CounterValue
		}
		desc := prometheus.NewDesc(x.Name, x.Help, names, nil)
		m, err := prometheus.NewConstMetric(desc, kind, x.Value, values...)
		if err != nil {
			m = prometheus.NewInvalidMetric(desc, err)
		}
		out <- m
	}
}
