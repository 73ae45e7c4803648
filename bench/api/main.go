// Command api measures a running API server, proa or upstream: operations a
// second, and per second of the server's CPU, which other work on the machine
// changes little.
//
//	go run ./bench/api -kubeconfig F -pid SERVER[,ETCD]
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	kubeconfig = flag.String("kubeconfig", os.Getenv("KUBECONFIG"), "how to reach the server")
	pids       = flag.String("pid", "", "the server's processes, for their CPU time")
	workers    = flag.Int("clients", 64, "clients at once")
	only       = flag.String("only", "", "measure only what begins with this")
	seconds    = flag.Int("seconds", 5, "time for each measure")
)

const namespace = "bench-api"

func main() {
	flag.Parse()
	cs := connect()
	ctx := context.Background()
	_, _ = cs.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}) // may be there
	maps := cs.CoreV1().ConfigMaps(namespace)
	var n atomic.Int64
	measure("create a config map", *workers, func() error {
		_, err := maps.Create(ctx, object(fmt.Sprintf("m-%d-%d", os.Getpid(), n.Add(1))), metav1.CreateOptions{})
		return err
	})
	name := fmt.Sprintf("m-%d-1", os.Getpid())
	measure("get one", *workers, func() error {
		_, err := maps.Get(ctx, name, metav1.GetOptions{})
		return err
	})
	for _, limit := range []int64{500, 5000} {
		measure(fmt.Sprintf("list %d", limit), 4, func() error {
			_, err := maps.List(ctx, metav1.ListOptions{Limit: limit, ResourceVersion: "0"})
			return err
		})
	}
	measure("patch one", *workers, func() error {
		body := fmt.Sprintf(`{"data":{"n":"%d"}}`, n.Add(1))
		_, err := maps.Patch(ctx, fmt.Sprintf("m-%d-%d", os.Getpid(), 1+n.Load()%500), "application/merge-patch+json", []byte(body), metav1.PatchOptions{})
		return err
	})
	if err := cs.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		log.Fatal(err)
	}
}

func connect() *kubernetes.Clientset {
	cfg, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	cfg.QPS = -1
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	cs, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		log.Fatal(err)
	}
	return cs
}

func object(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench"}},
		Data:       map[string]string{"key": strings.Repeat("v", 512)},
	}
}

// measure runs op from many goroutines and prints what came of it.
func measure(what string, clients int, op func() error) {
	if !strings.HasPrefix(what, *only) {
		return
	}
	var wg sync.WaitGroup
	times := make([][]time.Duration, clients)
	cpu, start := cpuTime(), time.Now()
	for i := range clients {
		wg.Go(func() {
			for begin := time.Now(); begin.Sub(start) < time.Duration(*seconds)*time.Second; begin = time.Now() {
				if err := op(); err != nil {
					log.Fatalf("%s: %v", what, err)
				}
				times[i] = append(times[i], time.Since(begin))
			}
		})
	}
	wg.Wait()
	wall, cpu := time.Since(start), cpuTime()-cpu
	all := slices.Concat(times...)
	slices.Sort(all)
	fmt.Printf("%-20s %8.0f /s", what, float64(len(all))/wall.Seconds())
	if cpu > 0 {
		fmt.Printf(" %8.0f per CPU second", float64(len(all))/cpu.Seconds())
	}
	fmt.Printf("   p50 %v p99 %v\n", all[len(all)/2].Round(time.Microsecond), all[len(all)*99/100].Round(time.Microsecond))
}

// cpuTime is what the server's processes have used so far.
func cpuTime() (sum time.Duration) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	for _, pid := range strings.Split(*pids, ",") {
		data, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		for _, s := range f[11:13] { // utime, stime
			n, _ := strconv.Atoi(s)
			sum += time.Duration(n) * tick
		}
	}
	return sum
}
