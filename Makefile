# proa's commands. `make up` is the main job, `make test` the tests; both set up
# what they need on a fresh machine with Go, gcc and root.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
SHIM    := runtime/shimbin/proa-shim
SHIM_TAGS := seccomp,netgo,osusergo,runc_nocriu
# What the embedded kubectl says that it is: the release of its libraries.
KUBECTL_VERSION := $(addprefix -X k8s.io/component-base/version.,gitVersion=v1.37.2 gitMajor=1 gitMinor=37)
LDFLAGS := -s -w -X proa/cli.Version=$(VERSION) $(KUBECTL_VERSION)
# What a kubelet-sized test may take on a slow machine.
TIMEOUT ?= 20m
# How long each fuzz target runs; GUIDED=1 looks deeper, and builds longer.
FUZZTIME ?= 3s
IMAGES  := $(GO) run ./test/images -o bin/images flask-app busybox

KUBECTL  = $(shell $(GO) list -m -f '{{.Version}}' k8s.io/kubectl 2>/dev/null | sed s/v0/v1/)
OLDER    = $(shell cd test/kubectl/older && $(GO) list -m -f '{{.Version}}' k8s.io/kubectl 2>/dev/null | sed s/v0/v1/)

# Runs tests of $(1) with flags $(2). A test that fails is run once more, by
# itself: on a machine that somebody else uses too, one answer in thousands comes
# late. It is named at the end either way. More failures, a data race or a panic
# are final.
TESTS = $(GO) run gotest.tools/gotestsum@v1.13.0 --format pkgname --hide-summary=skipped \
	--rerun-fails=1 --rerun-fails-max-failures=4 --rerun-fails-abort-on-data-race --rerun-fails-run-root-test \
	--packages="$(1)" -- -timeout $(TIMEOUT) $(2)

# One way of compiling for all but the shim and the race detector, so that what
# is built once is used again.
export CGO_ENABLED := 0

.PHONY: help up build demo test check unit race e2e clients kubectls vm crash disk bench bench-api upstream goldens goldens-full clean deps images conformance-suite conformance-api conformance-more conformance-short differential

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

up: build ## build and run a cluster here; Ctrl-C stops it
	@bin/proa up

build: deps ## build bin/proa, static and stripped
	@mkdir -p bin
	CGO_ENABLED=1 $(GO) build -tags $(SHIM_TAGS) -ldflags '-s -w -linkmode external -extldflags -static' -o $(SHIM) ./cmd/proa-shim
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/proa ./cmd/proa

deps: ## install what the build and the tests need, if missing
	@hack/deps.sh

images: deps ## assemble the example's and the tests' images from Debian packages
	@mkdir -p bin/images
	$(IMAGES) || { apt-get update -qq && $(IMAGES); } # apt may know the packages of last year, or none

demo: build images ## start a cluster, run the example on it, show it answering
	@hack/demo.sh

test: build images check unit race fuzz e2e ## everything: rules, unit tests, the race detector, end to end

check: ## format, vet, import order and the other rules of the house
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "gofmt would change:"; echo "$$bad"; exit 1; fi
	$(GO) vet $$($(GO) list ./... | grep -v /proa-shim)
	$(GO) test ./test/rules

# Rooms whose goroutines share state; each is tested with the race detector
# alone, all others without.
RACY := ./store/... ./reconcile/... ./client/... ./scheduler/... ./apiserver/... ./controllers/... ./internal/supervise/... ./internal/h2/...

unit: ## unit and room tests, as root
	$(call TESTS,$$($(GO) list ./... | grep -v -e /test/e2e -e /test/rules -e /proa-shim -e ^proa/store -e ^proa/reconcile -e ^proa/client -e ^proa/scheduler -e ^proa/apiserver -e ^proa/controllers),-p 1)
	CGO_ENABLED=1 $(call TESTS,./runtime/shim,-tags $(SHIM_TAGS))
	$(call TESTS,./apiserver,-run '^TestHostileBodies$$') # what it judges is the price, which the race detector multiplies

race: ## the rooms that share state, with the race detector
	CGO_ENABLED=1 $(call TESTS,$(RACY),-race)

kubectls: ## kubectl built apart from proa, of this version and three minor versions older
	$(GO) build -ldflags '-X k8s.io/component-base/version.gitVersion=$(KUBECTL)' -o bin/kubectl ./test/kubectl
	cd test/kubectl/older && $(GO) build -ldflags '-X k8s.io/component-base/version.gitVersion=$(OLDER)' -o ../../../bin/kubectl-older .

e2e: kubectls ## the whole cluster against real containers
	$(GO) run ./test/images -o bin/images health
	$(call TESTS,./test/e2e,-count=1 -skip '^TestClient')

clients: build images ## what others made for Kubernetes: Helm, an operator, a controller-runtime suite
	@mkdir -p bin/clients
	cd test/clients/helm && $(GO) build -o ../../../bin/clients/helm helm.sh/helm/v3/cmd/helm
	cd test/clients/manager && $(GO) test -c -o ../../../bin/clients/manager.test .
	$(GO) run ./test/images -o bin/clients training-operator
	bin/proa kubectl kustomize $$(cd test/clients/operator && $(GO) list -m -f '{{.Dir}}' github.com/kubeflow/training-operator)/manifests/overlays/standalone >bin/clients/training-operator.yaml
	$(GO) test -count=1 -timeout $(TIMEOUT) ./test/e2e -run '^TestClient'

# Kubernetes' own tests, in a module of their own: 9 minutes on two cores from
# an empty build cache, a minute when only the linking is left.
SUITE := bin/conformance

conformance-suite: $(SUITE)/suite.stamp ## build Kubernetes' own tests

$(SUITE)/suite.stamp: test/conformance/go.mod test/conformance/go.sum
	@mkdir -p $(SUITE)
	cd test/conformance && $(GO) build -ldflags '-s -w' -o ../../$(SUITE)/ github.com/onsi/ginkgo/v2/ginkgo
	cd test/conformance && $(GO) test -c -vet=off -ldflags '-s -w' -o ../../$(SUITE)/e2e.test k8s.io/kubernetes/test/e2e
	@touch $@

conformance-api: build kubectls conformance-suite ## the conformance tests that need no running pod
	cd test/conformance && $(GO) vet ./run && $(GO) run ./run

conformance-more: build kubectls conformance-suite ## Kubernetes' other tests that need no running pod
	cd test/conformance && $(GO) run ./run -list more.txt -out ../../$(SUITE)/more

conformance-short: build kubectls conformance-suite ## the same without those that take minutes
	cd test/conformance && $(GO) run ./run -short -tries 2

# Links Kubernetes: minutes from an empty build cache, half a minute to link
# again; the objects themselves take some minutes.
differential: ## proa's kinds beside Kubernetes' own: rules, tables, warnings, fields, conversions
	cd test/differential && $(GO) vet . && $(GO) test -vet=off -count=1 -timeout 60m .

vm: build images ## cgroup v2: limits, pods and lifetime in a small virtual machine
	test/vm/run.sh

fuzz: ## decoders and selectors against made-up input, FUZZTIME each
	@SHIM_TAGS=$(SHIM_TAGS) hack/fuzz.sh $(FUZZTIME) $(GUIDED)

crash: ## servers and etcd killed again and again under load, judged by what clients saw
	PROA_CRASH_ROUNDS=$${ROUNDS:-30} $(GO) test -count=1 -timeout $(TIMEOUT) -run 'TestCrashes' -v ./cluster

disk: ## a server on a disk that stays full for FULL, and CHURN objects that come and go
	PROA_DISK_TIME=$${FULL:-10m} PROA_CHURN_OBJECTS=$${CHURN:-100000} $(GO) test -count=1 -timeout 2h -run 'TestFullDisk|TestDiskStaysFull|TestChurn' -v ./cluster

bench: build images ## the measures of bench/cluster.md
	$(GO) run ./bench/cluster

# Upstream's own programs, of the release that proa serves the API of: half an
# hour on two cores from an empty build cache.
UPSTREAM := bin/upstream

upstream: $(UPSTREAM)/upstream.stamp ## build etcd, kube-apiserver and kube-controller-manager, to compare with

$(UPSTREAM)/upstream.stamp: test/conformance/go.mod test/conformance/go.sum test/etcd/go.mod test/etcd/go.sum
	@mkdir -p $(UPSTREAM)
	cd test/etcd && $(GO) build -ldflags '-s -w' -o ../../$(UPSTREAM)/etcd .
	cd test/conformance && $(GO) build -ldflags '-s -w $(KUBECTL_VERSION)' -o ../../$(UPSTREAM)/ k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-controller-manager k8s.io/kubernetes/cmd/kubectl
	@touch $@

goldens: upstream ## record what kubectl shows of upstream, for test/golden
	$(GO) test -count=1 -timeout $(TIMEOUT) ./test/golden -run TestKubectl -record $(CURDIR)/$(UPSTREAM) -kubectl $(CURDIR)/$(UPSTREAM)/kubectl

goldens-full: kubectls ## every kind through every kubectl command, with kubectl built apart, beside what was recorded
	$(GO) test -count=1 -timeout $(TIMEOUT) ./test/golden -run TestKubectl -full -kubectl $(CURDIR)/bin/kubectl

bench-api: build upstream ## the measures of bench/api.md: proa beside upstream, in turns (BENCH='-size 0.2 -rounds 3': sooner)
	$(GO) run ./bench/api $(BENCH)

clean: ## remove what was built
	rm -rf bin runtime/shimbin/proa-shim
