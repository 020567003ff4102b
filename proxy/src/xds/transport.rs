//! The gRPC channel under the stream.

use sidegate_xds::envoy::service::discovery::v3 as wire;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};
use wire::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

use crate::settings::{Ads, AdsEndpoint};

/// Connects and opens the stream; the error says what an operator needs to know.
pub(crate) async fn open(
    ads: Ads,
    endpoint: AdsEndpoint,
    requests: ReceiverStream<wire::DeltaDiscoveryRequest>,
) -> Result<Streaming<wire::DeltaDiscoveryResponse>, String> {
    let channel = channel(&ads, &endpoint)?.connect().await.map_err(|error| chain(&error))?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LARGEST_RESPONSE);
    let mut request = Request::new(requests);
    for (name, value) in &ads.initial_metadata {
        let name: Result<tonic::metadata::AsciiMetadataKey, _> = name.to_ascii_lowercase().parse();
        let name = name.map_err(|error| format!("initial_metadata: {error}"))?;
        let value = value
            .parse()
            .map_err(|_| format!("initial_metadata: {name} has a value that no header can have"))?;
        request.metadata_mut().append(name, value);
    }
    let response = client.delta_aggregated_resources(request).await.map_err(|status| describe(&status))?;
    Ok(response.into_inner())
}

fn channel(ads: &Ads, endpoint: &AdsEndpoint) -> Result<Endpoint, String> {
    let host =
        if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
    let address = format!("http://{host}:{}", endpoint.port);
    let channel = Endpoint::from_shared(address.clone()).map_err(|error| format!("{address}: {error}"))?;
    let channel = channel
        .connect_timeout(ads.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    match &ads.authority {
        None => Ok(channel),
        Some(authority) => {
            let origin = format!("http://{authority}").parse();
            Ok(channel.origin(origin.map_err(|error| format!("authority {authority}: {error}"))?))
        }
    }
}

/// A status in one line.
pub(crate) fn describe(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("{:?}: {}", status.code(), chain(source)),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Foreign control planes send tens of megabytes at once; the library's own limit is four.
const LARGEST_RESPONSE: usize = 256 << 20;

/// Large, so that a large response does not wait for window updates.
const WINDOW: u32 = 4 << 20;

/// How often an idle connection is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long it may take to say so.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
