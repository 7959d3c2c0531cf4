//! Tells a Fluvio's stream controller of a streaming unit, as `fluvio cluster spu register` does: `tests/fluvio.py` starts one without that tool.
//!
//! `fluvio_register CONTROLLER ID PUBLIC PRIVATE`, each address as HOST:PORT.

use fluvio::metadata::customspu::CustomSpuSpec;
use fluvio::metadata::spu::SpuSpec;
use fluvio::{Fluvio, FluvioClusterConfig};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [controller, id, public, private] = arguments.as_slice() else {
        return Err("usage: fluvio_register CONTROLLER ID PUBLIC PRIVATE".into());
    };
    let id = id.parse()?;
    let ((public, public_port), (private, private_port)) = (address(public)?, address(private)?);
    let unit = CustomSpuSpec {
        id,
        public_endpoint: SpuSpec::new_public_addr(id, public_port, public).public_endpoint,
        private_endpoint: SpuSpec::new_private_addr(id, private_port, private).private_endpoint,
        ..CustomSpuSpec::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(register(controller, unit))
}

async fn register(controller: &str, unit: CustomSpuSpec) -> Result<(), Failure> {
    let client = Fluvio::connect_with_config(&FluvioClusterConfig::new(controller)).await?;
    client.admin().await.create(format!("custom-spu-{}", unit.id), false, unit).await?;
    Ok(())
}

fn address(text: &str) -> Result<(String, u16), Failure> {
    let (host, port) = text.rsplit_once(':').ok_or("an address is HOST:PORT")?;
    Ok((host.to_owned(), port.parse()?))
}
