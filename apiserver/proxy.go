package apiserver

import (
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/api"
)

// proxyTransport reaches pods. Their certificates are their own affair, as in
// upstream: whoever may proxy asks for a pod, not for a name.
var proxyTransport = &http.Transport{
	DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
	MaxIdleConnsPerHost: -1, // nothing stays open for a request that may never come
	DisableKeepAlives:   true,
}

func joinHostPort(host, port string) string {
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(host, port)
}

// readyEndpoint finds an endpoint of a slice that takes connections.
func readyEndpoint(obj api.Object, port string) (host, number string, ok bool) {
	slice, is := obj.(*discoveryv1.EndpointSlice)
	if !is {
		return "", "", false
	}
	for _, p := range slice.Ports {
		if p.Port == nil || p.Name != nil && *p.Name != port {
			continue
		}
		for _, e := range slice.Endpoints {
			if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				return e.Addresses[0], strconv.Itoa(int(*p.Port)), true
			}
		}
	}
	return "", "", false
}
