//! The gRPC channel under the stream.

use std::time::Duration;

use sidegate_xds::envoy::service::discovery::v3 as wire;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use wire::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

use crate::identity::{self, Handle};
use crate::settings::{Ads, AdsEndpoint};

mod secured;

/// Connects and opens the stream; the error says what an operator needs to know.
pub(crate) async fn open(
    ads: Ads,
    endpoint: AdsEndpoint,
    requests: ReceiverStream<wire::DeltaDiscoveryRequest>,
    identity: Option<Handle>,
) -> Result<Streaming<wire::DeltaDiscoveryResponse>, String> {
    let mut request = Request::new(requests);
    for (name, value) in &ads.initial_metadata {
        let name: Result<tonic::metadata::AsciiMetadataKey, _> = name.to_ascii_lowercase().parse();
        let name = name.map_err(|error| format!("initial_metadata: {error}"))?;
        let value = value
            .parse()
            .map_err(|_| format!("initial_metadata: {name} has a value that no header can have"))?;
        request.metadata_mut().append(name, value);
    }
    let (channel, token) = Box::pin(connect(&ads, &endpoint, identity.as_ref())).await?;
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token);
    }
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LARGEST_RESPONSE);
    let response = client.delta_aggregated_resources(request).await.map_err(|status| {
        if let Some(identity) = &identity {
            identity.heed(&status);
        }
        identity::describe(&status)
    })?;
    Ok(response.into_inner())
}

type Token = tonic::metadata::MetadataValue<tonic::metadata::Ascii>;

/// A channel, and what proves us on it where TLS does not.
async fn connect(
    ads: &Ads,
    endpoint: &AdsEndpoint,
    identity: Option<&Handle>,
) -> Result<(Channel, Option<Token>), String> {
    let Some(tls) = &ads.tls else {
        let channel = settings(ads, endpoint, "http")?.connect_timeout(ads.connect_timeout).connect().await;
        return Ok((channel.map_err(|error| identity::in_one_line(&error))?, None));
    };
    let (connection, token) = secured::dial(tls, endpoint, ads.connect_timeout, identity).await?;
    let channel = settings(ads, endpoint, "https")?.connect_with_connector(connection).await;
    Ok((channel.map_err(|error| identity::in_one_line(&error))?, token))
}

fn settings(ads: &Ads, endpoint: &AdsEndpoint, scheme: &str) -> Result<Endpoint, String> {
    let host =
        if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
    let address = format!("{scheme}://{host}:{}", endpoint.port);
    let channel = Endpoint::from_shared(address.clone()).map_err(|error| format!("{address}: {error}"))?;
    let channel = channel
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    match &ads.authority {
        None => Ok(channel),
        Some(authority) => {
            let origin = format!("{scheme}://{authority}").parse();
            Ok(channel.origin(origin.map_err(|error| format!("authority {authority}: {error}"))?))
        }
    }
}

/// Foreign control planes send tens of megabytes at once; the library's own limit is four.
const LARGEST_RESPONSE: usize = 256 << 20;

/// Large, so that a large response does not wait for window updates.
const WINDOW: u32 = 4 << 20;

/// How often an idle connection is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long it may take to say so.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
