//! Trials of `gc` on a store that fails in every way.

use std::fs;
use std::process::Command;

use super::Verdict;
use super::good::{Good, write};
use super::sandbox::{LIMIT, Sandbox};
use crate::harness::{PASSWORD, S3Server, S3Settings, Server as _, Until};
use crate::random::Random;
use crate::stores::faults::{Fault, Proxy};

/// One of the ways in which a store fails, mostly for a few of the requests.
pub(super) fn plan(
    random: &mut Random,
) -> impl Fn(usize, &str) -> Option<Fault> + Send + Sync + 'static + use<> {
    let faults = [
        Fault::Closed,
        Fault::Status { code: 500, retry_after: None },
        Fault::Status { code: 503, retry_after: Some(1) },
        Fault::Status { code: 429, retry_after: Some(3600) },
        Fault::Status { code: 404, retry_after: None },
        Fault::Status { code: 403, retry_after: None },
        Fault::Refused { code: 200, words: "<html>\u{1b}[31m a portal\n::error::x</html>" },
        Fault::Refused { code: 400, words: "{\"errors\": [[[[[" },
        Fault::Reset { after: 40 },
        Fault::Truncated { after: 200 },
        Fault::Flood,
        Fault::Drip,
        Fault::Redirect { code: 307, to: "127.0.0.1:9" },
    ];
    let fault = *random.pick(&faults);
    let (from, share) = (random.below(8), *random.pick(&[1, 1, 3, 7]));
    move |number, _| (number >= from && number.is_multiple_of(share)).then_some(fault)
}

pub(super) fn collections(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    let server = S3Server::start(S3Settings::default());
    // As a store has it: blobs, and a name.
    let prefix = server.directory().join("cache-bucket/team/app");
    write(&prefix, &good.files);
    fs::create_dir(prefix.join("refs")).expect("a directory");
    for name in ["app.exact.0000000000000001", "app.project"] {
        fs::copy(prefix.join("index.json"), prefix.join("refs").join(name)).expect("a ref");
    }
    let proxy = Proxy::start(server.address(), plan(random));
    let url = server.url(proxy.address());
    let mut command: Command = sandbox.command(&["gc", &url, "--max-age", "1m"]);
    command.envs(server.variables(proxy.address(), PASSWORD));
    sandbox.judged(command, Until::Limit(LIMIT), &[0, 2, 3, 5]).map(drop)
}
