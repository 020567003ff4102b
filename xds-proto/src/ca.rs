//! The wire form of `istio.v1.auth.IstioCertificateService`, by which workloads ask for certificates.
//!
//! Written down by hand: one call of two messages needs no generated file.

use crate::google::protobuf::Struct;

/// The full name of the gRPC service.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";

/// The path of its one call.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// A certificate signing request in PEM form.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// How long the certificate is wanted for, in seconds; 0 leaves it to the authority.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// Hints of the caller; none of them says who it is.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM certificates: the leaf first, the root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}
