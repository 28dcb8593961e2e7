//! Metrics of the TLS that the processes of a database speak with each other.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::gauge::ConstGauge,
};
use replicateddb_store::internal::InUse;

/// Tells of the files in use, whenever it is asked.
#[derive(Debug)]
pub struct Inside(pub InUse);

impl Collector for Inside {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for (name, help, value) in [
            (
                "replicateddb_internal_certificate_expiry_seconds",
                "When the certificate that replicas, agents and Cassandras show each other ends, in seconds since 1970",
                self.0.until(),
            ),
            (
                "replicateddb_internal_files_unusable",
                "1 while the files of that certificate, its key and the authorities can't be used as they are, and those of before are in use",
                i64::from(self.0.is_outdated()),
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{encoding::text, registry::Registry};
    use replicateddb_store::internal::{Internal, InternalArgs, NAME};

    #[tokio::test]
    async fn the_end_of_the_certificate_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            Some(dir.path().join(name))
        };
        let args = InternalArgs {
            internal_certificate: file("c", &pem),
            internal_key: file("k", &key.serialize_pem()),
            internal_ca: file("a", &pem),
            internal_optional: false,
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Inside(Internal::open(&args).await.unwrap().in_use().unwrap())));
        let mut told = String::new();
        text::encode(&mut told, &registry).unwrap();
        assert!(told.contains("replicateddb_internal_certificate_expiry_seconds 4102444800\n"), "{told}");
        assert!(told.contains("replicateddb_internal_files_unusable 0\n"), "{told}");
    }
}
