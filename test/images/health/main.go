// Command health answers gRPC health checks on the port that it is given, for
// the tests of gRPC probes. Of the service "" and "main" it says SERVING until it
// gets SIGUSR1, NOT_SERVING from then on.
package main

import (
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: health PORT")
	}
	l, err := net.Listen("tcp", ":"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	status := health.NewServer()
	status.SetServingStatus("main", healthpb.HealthCheckResponse_SERVING)
	ill := make(chan os.Signal, 1)
	signal.Notify(ill, syscall.SIGUSR1)
	go func() {
		<-ill
		status.Shutdown()
	}()
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, status)
	log.Fatal(s.Serve(l))
}
