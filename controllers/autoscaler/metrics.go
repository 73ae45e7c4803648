package autoscaler

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// maxAnswer bounds what a metrics server may send; its list of 5,000 pods is a
// tenth of it.
const maxAnswer = 64 << 20

// API reads metrics from the API groups that servers behind the aggregation
// layer serve: metrics.k8s.io, custom.metrics.k8s.io, external.metrics.k8s.io.
type API struct {
	// Base is the API server's URL, HTTP a client that it knows.
	Base string
	HTTP *http.Client
}

// What is read of the three groups' answers, which are all lists.
type (
	podMetrics struct {
		Metadata   metav1.ObjectMeta
		Timestamp  metav1.Time
		Window     metav1.Duration
		Containers []struct {
			Name  string
			Usage corev1.ResourceList
		}
	}
	metricValue struct {
		DescribedObject corev1.ObjectReference `json:"describedObject"`
		Timestamp       metav1.Time
		WindowSeconds   *int64 `json:"windowSeconds"`
		Value           resource.Quantity
	}
	listOf[T any] struct{ Items []T }
)

// Read implements Metrics.
func (a *API) Read(ctx context.Context, namespace, selector string, m *autoscalingv2.MetricSpec) Reading {
	ctx, cancel := context.WithTimeout(ctx, Period)
	defer cancel()
	switch m.Type {
	case autoscalingv2.ResourceMetricSourceType:
		return a.resource(ctx, namespace, selector, m.Resource.Name, "")
	case autoscalingv2.ContainerResourceMetricSourceType:
		return a.resource(ctx, namespace, selector, m.ContainerResource.Name, m.ContainerResource.Container)
	case autoscalingv2.PodsMetricSourceType:
		return a.pods(ctx, namespace, selector, m.Pods.Metric)
	case autoscalingv2.ObjectMetricSourceType:
		return a.object(ctx, namespace, m.Object)
	case autoscalingv2.ExternalMetricSourceType:
		return a.external(ctx, namespace, m.External.Metric)
	}
	return Reading{}
}

func (a *API) resource(ctx context.Context, namespace, selector string, name corev1.ResourceName, container string) Reading {
	var list listOf[podMetrics]
	path := "/apis/metrics.k8s.io/v1beta1/namespaces/" + namespace + "/pods"
	if err := a.get(ctx, path, url.Values{"labelSelector": {selector}}, &list); err != nil {
		return Reading{Err: fmt.Errorf("unable to get metrics for resource %s: unable to fetch metrics from resource metrics API: %w", name, err)}
	}
	if len(list.Items) == 0 {
		return Reading{Err: fmt.Errorf("unable to get metrics for resource %s: no metrics returned from resource metrics API", name)}
	}
	out := Reading{Pods: map[string]Sample{}}
	for _, p := range list.Items {
		if n, known := p.use(name, container); known {
			out.Pods[p.Metadata.Name] = Sample{Milli: n, At: p.Timestamp.Time, Window: p.Window.Duration}
		}
	}
	return out
}

// use is what a pod's containers, or one of them, use of a resource. A container
// without a figure makes the pod's unknown.
func (p *podMetrics) use(name corev1.ResourceName, container string) (sum int64, known bool) {
	for _, c := range p.Containers {
		if container != "" && c.Name != container {
			continue
		}
		q, ok := c.Usage[name]
		if !ok {
			return 0, false
		}
		sum, known = sum+q.MilliValue(), true
	}
	return sum, known
}

func (a *API) pods(ctx context.Context, namespace, selector string, m autoscalingv2.MetricIdentifier) Reading {
	values, err := a.custom(ctx, "/namespaces/"+namespace+"/pods/*/"+url.PathEscape(m.Name), selector, m.Selector)
	if err != nil {
		return Reading{Err: fmt.Errorf("unable to get metric %s: unable to fetch metrics from custom metrics API: %w", m.Name, err)}
	}
	out := Reading{Pods: map[string]Sample{}}
	for _, v := range values {
		s := Sample{Milli: v.Value.MilliValue(), At: v.Timestamp.Time, Window: time.Minute}
		if v.WindowSeconds != nil {
			s.Window = time.Duration(*v.WindowSeconds) * time.Second
		}
		out.Pods[v.DescribedObject.Name] = s
	}
	return out
}

func (a *API) object(ctx context.Context, namespace string, m *autoscalingv2.ObjectMetricSource) Reading {
	gv, err := schema.ParseGroupVersion(m.DescribedObject.APIVersion)
	if err != nil {
		return Reading{Err: err}
	}
	plural, _ := meta.UnsafeGuessKindToResource(gv.WithKind(m.DescribedObject.Kind))
	path := "/namespaces/" + namespace + "/" + plural.GroupResource().String() + "/" + url.PathEscape(m.DescribedObject.Name) + "/" + url.PathEscape(m.Metric.Name)
	values, err := a.custom(ctx, path, "", m.Metric.Selector)
	if err == nil && len(values) != 1 {
		err = fmt.Errorf("%d values for one object", len(values))
	}
	if err != nil {
		return Reading{Err: fmt.Errorf("unable to get metric %s: %s on %s %s/%w", m.Metric.Name, m.DescribedObject.Kind, namespace, m.DescribedObject.Name, err)}
	}
	return Reading{Value: values[0].Value.MilliValue()}
}

// custom tries the group's versions, the newest first.
func (a *API) custom(ctx context.Context, path, selector string, metric *metav1.LabelSelector) ([]metricValue, error) {
	q := url.Values{}
	if selector != "" {
		q.Set("labelSelector", selector)
	}
	if metric != nil {
		q.Set("metricLabelSelector", metav1.FormatLabelSelector(metric))
	}
	var list listOf[metricValue]
	err := a.get(ctx, "/apis/custom.metrics.k8s.io/v1beta2"+path, q, &list)
	if apierrors.IsNotFound(err) {
		err = a.get(ctx, "/apis/custom.metrics.k8s.io/v1beta1"+path, q, &list)
	}
	return list.Items, err
}

func (a *API) external(ctx context.Context, namespace string, m autoscalingv2.MetricIdentifier) Reading {
	q := url.Values{}
	if m.Selector != nil {
		q.Set("labelSelector", metav1.FormatLabelSelector(m.Selector))
	}
	var list listOf[metricValue]
	err := a.get(ctx, "/apis/external.metrics.k8s.io/v1beta1/namespaces/"+namespace+"/"+url.PathEscape(m.Name), q, &list)
	if err == nil && len(list.Items) == 0 {
		err = fmt.Errorf("no metrics returned from external metrics API")
	}
	if err != nil {
		return Reading{Err: fmt.Errorf("unable to get external metric %s/%s/%+v: unable to fetch metrics from external metrics API: %w", namespace, m.Name, m.Selector, err)}
	}
	var out Reading
	for _, v := range list.Items {
		out.Value += v.Value.MilliValue()
	}
	return out
}

func (a *API) get(ctx context.Context, path string, q url.Values, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.Base+path+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := a.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return refused(resp.StatusCode, body)
	}
	return json.Unmarshal(body, into)
}

// refused is the Status that an answer carries, or one made of its code.
func refused(code int, body []byte) error {
	var s metav1.Status
	if json.Unmarshal(body, &s) == nil && s.Kind == "Status" {
		return &apierrors.StatusError{ErrStatus: s}
	}
	return apierrors.NewGenericServerResponse(code, "get", schema.GroupResource{}, "", string(body[:min(len(body), 256)]), 0, true)
}
