package custom_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// deepSchema is a schema whose objects nest n levels, as JSON.
func deepSchema(n int) string {
	return strings.Repeat(`{"type":"object","properties":{"a":`, n) + `{"type":"string"}` + strings.Repeat("}}", n)
}

func definitionOf(schema string) string {
	return `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"bigs.example.com"},"spec":{"group":"example.com","scope":"Cluster",` +
		`"names":{"plural":"bigs","kind":"Big"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":` + schema + `}}]}}`
}

// TestHugeDefinitions sends schemas that are deep and wide: each is taken or
// refused in good time, and others are served meanwhile.
func TestHugeDefinitions(t *testing.T) {
	h := start(t)
	var wide strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&wide, `"f%d":{"type":"string","maxLength":10},`, i)
	}
	const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	for name, c := range map[string]struct {
		schema string
		codes  []int
	}{
		"deep":     {deepSchema(500), []int{201}},
		"abyss":    {deepSchema(20000), []int{400}},
		"wide":     {`{"type":"object","properties":{` + wide.String() + `"last":{"type":"string"}}}`, []int{201}},
		"too long": {`{"type":"object","description":"` + strings.Repeat("x", 4<<20) + `"}`, []int{413}},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			done := make(chan answer, 1)
			go func() { done <- h.do("POST", crds, definitionOf(c.schema)) }()
			if a := h.get("/api/v1/namespaces/default"); a.code != 200 {
				t.Errorf("another request meanwhile: %d", a.code)
			}
			a := <-done
			if a.code != c.codes[0] {
				t.Errorf("%d %.300s", a.code, a.body)
			}
			t.Logf("%v", time.Since(begin))
			if a.code != 201 {
				return
			}
			h.established("bigs.example.com")
			if a := h.do("POST", "/apis/example.com/v1/bigs", `{"apiVersion":"example.com/v1","kind":"Big","metadata":{"name":"b"},"f1":"x","a":{"a":{"b":1}}}`); a.code != 201 {
				t.Errorf("an object of it: %d %.300s", a.code, a.body)
			}
			if a := h.get("/openapi/v3/apis/example.com/v1"); a.code != 200 && a.code != 404 {
				t.Errorf("its document: %d", a.code)
			}
			must(t, h.crds.ApiextensionsV1().CustomResourceDefinitions().Delete(t.Context(), "bigs.example.com", metav1.DeleteOptions{}))
			h.eventually("it goes", func() bool { return h.get(crds+"/bigs.example.com").code == 404 })
		})
	}
}

// TestDeepObject sends an object that nests deeper than any schema says.
func TestDeepObject(t *testing.T) {
	h := start(t)
	h.define(widgets)
	body := `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"colour":"red","free":` + strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000) + `}}`
	if a := h.do("POST", "/apis/example.com/v1/namespaces/default/widgets", body); a.code >= 500 {
		t.Errorf("%d %.300s", a.code, a.body)
	}
	for _, body := range []string{
		`{"apiVersion":"example.com/v1","kind":"Widget","metadata":"none"}`,
		`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"x","labels":[]},"spec":{"colour":"red"}}`,
		`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"x"},"spec":[]}`,
		`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"x"},"spec":{"colour":"red","items":[{"name":"a"},{"name":"a"}]}}`,
		`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"x"},"spec":{"colour":"red","replicas":1e400}}`,
		`{"apiVersion":"example.com/v1","kind":1,"metadata":{"name":"x"}}`,
		`{"apiVersion":"example.com/v2","kind":"Widget","metadata":{"name":"x"}}`,
		`[]`, `null`, `{`, "",
	} {
		if a := h.do("POST", "/apis/example.com/v1/namespaces/default/widgets", body); a.code != 400 && a.code != 422 {
			t.Errorf("%.80s: %d %.300s", body, a.code, a.body)
		}
	}
}

// TestManyChanges redefines a kind while it is written and watched.
func TestManyChanges(t *testing.T) {
	h := start(t)
	h.define(widgets)
	client := h.dynamic.Resource(gvr("example.com", "v1", "widgets")).Namespace("default")
	stop := make(chan struct{})
	done := make(chan int)
	for w := range 4 {
		go func() {
			n := 0
			for {
				select {
				case <-stop:
					done <- n
					return
				default:
				}
				u := object(t, redWidget)
				u.SetName(fmt.Sprintf("w-%d-%d", w, n))
				if _, err := client.Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
					t.Errorf("create while the kind changes: %v", err)
				}
				n++
			}
		}()
	}
	for i := range 10 {
		h.redefine("widgets.example.com", func(crd *apiextensionsv1.CustomResourceDefinition) {
			crd.Spec.Versions[0].AdditionalPrinterColumns[0].Description = fmt.Sprint(i)
		})
	}
	close(stop)
	total := 0
	for range 4 {
		total += <-done
	}
	list, err := client.List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if len(list.Items) != total {
		t.Errorf("%d of %d objects", len(list.Items), total)
	}
}
