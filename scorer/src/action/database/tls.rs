//! How connections to a database are protected.
//!
//! Invariant: whatever is asked of the certificate, the server proves that it holds its key.

use std::path::Path;
use std::sync::Arc;

use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::OpenError;
use crate::policy::database::{Tls, TlsMode};

/// What TLS connections of `action` are made with; `None`: there is to be no TLS.
pub(super) fn connector(action: &str, tls: &Tls) -> Result<Option<MakeRustlsConnect>, OpenError> {
    if tls.mode == TlsMode::Disable {
        return Ok(None);
    }
    let unusable = |source| OpenError::Tls { action: action.to_owned(), source };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
    let config = if tls.mode == TlsMode::VerifyFull {
        builder.with_root_certificates(roots(action, tls.ca.as_deref())?)
    } else {
        let verifier = match tls.mode {
            TlsMode::VerifyCa => {
                let roots = Arc::new(roots(action, tls.ca.as_deref())?);
                let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
                Some(chain.map_err(|error| unusable(Error::General(error.to_string())))?)
            }
            TlsMode::Disable | TlsMode::Require | TlsMode::VerifyFull => None,
        };
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { chain: verifier, provider }))
    };
    Ok(Some(MakeRustlsConnect::new(config.with_no_client_auth())))
}

fn roots(action: &str, ca: Option<&Path>) -> Result<RootCertStore, OpenError> {
    let Some(ca) = ca else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let action = || action.to_owned();
    let unreadable = |source| OpenError::Unreadable { action: action(), path: ca.to_owned(), source };
    let pem = std::fs::read(ca).map_err(unreadable)?;
    let mut roots = RootCertStore::empty();
    let unusable = || OpenError::Authority { action: action(), path: ca.to_owned() };
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_quotes_the_file| unusable())?;
        roots.add(certificate).map_err(|_not_one| unusable())?;
    }
    if roots.is_empty() {
        return Err(unusable());
    }
    Ok(roots)
}

/// Takes a certificate whatever name it has; where there is a chain, it must end at a trusted one.
#[derive(Debug)]
struct AnyName {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
