# What kube-proxy, the pod network agent and the volume helper run on; the node image starts from it too.
FROM debian:bookworm-slim
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
      ca-certificates iproute2 iptables conntrack procps && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
