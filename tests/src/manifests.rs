//! Short forms of Kubernetes objects; everything is in the namespace `shop`.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// The GatewayClass, and a Gateway `shop/public` that listens at this address.
pub fn gateway(address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: sidegate}}
spec: {{controllerName: sidegate.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: public, namespace: shop}}
spec:
  gatewayClassName: sidegate
  addresses: [{{type: IPAddress, value: {ip}}}]
  listeners: [{{name: http, protocol: HTTP, port: {port}}}]
"
    )
}

/// A Service with port 80, and a slice with its endpoints.
pub fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    service_with(name, "{name: http, port: 80}", endpoints)
}

/// A Service whose port speaks HTTP/2.
pub fn service_http2(name: &str, endpoints: &[SocketAddr]) -> String {
    service_with(name, "{name: http, port: 80, appProtocol: kubernetes.io/h2c}", endpoints)
}

fn service_with(name: &str, port: &str, endpoints: &[SocketAddr]) -> String {
    let mut text = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{port}]}}
"
    );
    // A slice has one set of ports, and every endpoint here has its own.
    for (index, endpoint) in endpoints.iter().enumerate() {
        let _ = write!(
            text,
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{index}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {}, protocol: TCP}}]
endpoints: [{{addresses: [{}], conditions: {{ready: true}}}}]
",
            endpoint.port(),
            endpoint.ip()
        );
    }
    text
}

/// An HTTPRoute of the Gateway: hosts and rules as YAML lists.
pub fn route(name: &str, hosts: &str, rules: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{name: public}}]
  hostnames: {hosts}
  rules: {rules}
"
    )
}

/// A Pod with an app and a sidecar on one address: the app's port, the sidecar's inbound port, and its outbound proxy.
pub fn pod(name: &str, app: SocketAddr, inbound: u16, outbound: u16) -> String {
    let (ip, port) = (app.ip(), app.port());
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {{app: {name}}}
  annotations: {{sidegate.dev/inbound: '{port}:{inbound}', sidegate.dev/outbound-proxy: '{outbound}'}}
spec: {{containers: [{{name: app, image: app, ports: [{{name: http, containerPort: {port}}}]}}]}}
status: {{phase: Running, podIP: {ip}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}, protocol: TCP}}]
endpoints: [{{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {name}, namespace: shop}}}}]
"
    )
}

/// An HTTPRoute of a Service, followed by every sidecar.
pub fn mesh_route(service: &str, rules: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {service}, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {service}, port: 80}}]
  rules: {rules}
"
    )
}
