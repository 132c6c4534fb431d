//! The throughput of services over TLS that are watched with `--tls auto`.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use support::peer::{Listen, Server};
use support::stack::Stack;
use support::tls::{Certificates, Shown};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::Peers;
use crate::figures::{Bound, Results};
use crate::load::{Client, Load, Until};
use crate::service::Service;
use crate::throughput::{SLICE, WARM};
use crate::watch::Watch;

const REPEATS: usize = 5;

const AT_ONCE: usize = 16;

/// Time for the libraries of a service to be probed.
const ATTACHED: Duration = Duration::from_secs(5);

/// A service over TLS.
struct Secured {
    service: Service,
    tls: Arc<ClientConfig>,
}

impl Secured {
    fn warm(stack: &Stack) -> Result<Self> {
        let certificates = Certificates::new()?;
        let server = Server::start(&certificates.stack(stack, Shown::ByServer), Listen::V4)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificates.authority())?)?;
        let mut tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let address = format!("127.0.0.1:{}", server.port()?).parse()?;
        let secured = Self { service: Service { server, address }, tls: Arc::new(tls) };
        secured.calls(WARM)?;
        Ok(secured)
    }

    /// Calls per second, and the number of calls.
    fn calls(&self, time: Duration) -> Result<(f64, u64)> {
        let load = Load::at_once(AT_ONCE);
        let mut client = Client::over_tls(self.service.address, load.connections, &self.tls)?;
        let made = client.call(load, Until::Elapsed(time))?;
        Ok((made.per_second(), made.calls))
    }
}

/// Measures watched ÷ bare, and how many calls were seen.
pub(crate) fn services(peers: &Peers, results: &mut Results) -> Result<()> {
    for name in ["python-asyncio", "grpc-go", "grpc-js", "grpc-java", "tonic"] {
        let secured = Secured::warm(&peers.stack(name)?)?;
        let pid = secured.service.server.pid();
        let (mut bare, mut ratios, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        let (mut before, _) = secured.calls(SLICE)?;
        for _ in 0..REPEATS {
            let watch = Watch::start(&["--tls", "auto", "--pid", &pid])?;
            await_probes(&watch)?;
            let begin = watch.begin()?;
            let (watched, calls) = secured.calls(SLICE)?;
            let ends = watch.since_ends(begin, calls as f64)?.ends;
            watch.stop()?;
            let (after, _) = secured.calls(SLICE)?;
            ratios.push(watched / f64::midpoint(before, after));
            seen.push(ends / calls as f64);
            bare.push(before);
            before = after;
        }
        results.add(format!("{name}: TLS, bare"), "calls/s", None, bare);
        let least = Some(Bound::AtLeast(0.9));
        results.add(format!("{name}: TLS, the service watched ÷ bare"), "", least, ratios);
        results.add(format!("{name}: calls seen ÷ made"), "", None, seen);
    }
    Ok(())
}

/// Waits until a library is probed. Without one, the service is not followed, and costs only what TLS connections cost at
/// the socket.
fn await_probes(watch: &Watch) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < ATTACHED {
        let metrics = watch.daemon.scrape().context("scrape")?;
        if metrics.sum("observer_tls_files_total", &[("result", "attached")]) > 0.0 {
            return Ok(());
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}
