#!/bin/sh
# make demo: a cluster, the example's image, the example, and what to try next.
set -eu
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

: >bin/demo.log
bin/proa up >>bin/demo.log 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null || true; wait $pid 2>/dev/null || true' EXIT
trap 'say "Stopped; the pods run on. bin/proa up finds them again, bin/proa reset --yes leaves nothing."; exit 0' INT TERM

say "proa up"
until grep -q '^ready' bin/demo.log; do
  kill -0 $pid 2>/dev/null || { cat bin/demo.log; exit 1; }
  sleep 0.05
done
cat bin/demo.log

say "proa image import bin/images/flask-app*.tar"
bin/proa image import bin/images/flask-app*.tar

say "kubectl apply -f examples/flask/"
bin/proa kubectl apply -f examples/flask/flask-deployment.yaml -f examples/flask/flask-service.yaml
bin/proa kubectl rollout status deployment/flask-app --timeout=120s
bin/proa kubectl get deployments,services,pods

address=$(bin/proa kubectl get service flask-app -o 'jsonpath={.status.loadBalancer.ingress[0].ip}')
say "curl http://$address  (three times)"
for _ in 1 2 3; do
  if command -v curl >/dev/null; then curl -s "http://$address"; else wget -qO- "http://$address"; fi
  echo
done

say "The cluster runs until Ctrl-C. In another terminal, try:"
cat <<TRY
  bin/proa kubectl scale deployment/flask-app --replicas=5
  bin/proa kubectl set image deployment/flask-app flask-app=flask-app:v2
  bin/proa kubectl rollout undo deployment/flask-app
  bin/proa kubectl logs -f deployment/flask-app
  bin/proa reset --yes        # leave nothing behind
TRY
wait $pid
