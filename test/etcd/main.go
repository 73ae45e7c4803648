// Command etcd is etcd's own server, built for tests of store/etcd. It is a
// module of its own, so that the server is no part of proa.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
