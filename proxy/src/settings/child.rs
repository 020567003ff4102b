//! The work that needs Envoy's descriptors, done by a short-lived child of this same program.
//!
//! The program calls itself with a hidden first argument. A question comes on the child's standard input, the answer leaves on
//! its standard output behind a mark, so that whatever else may stand there is never taken for one.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use prost::Message;
use serde_json::Value;
use sidegate_xds::envoy::config::bootstrap::v3::Bootstrap;
use sidegate_xds::envoy::service::discovery::v3::DiscoveryResponse;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::json::{Descriptors, Format, Problem};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

/// To be called first by every program that links this library, with its arguments (without its own name): does the child's work
/// if this process is such a child.
pub fn child_entry(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let task = arguments.next()?;
    let answer: fn(&[u8]) -> Answer = match task.to_str()? {
        DECODE => answer_decode,
        RENDER => answer_render,
        _ => return None,
    };
    let mut question = Vec::new();
    if let Err(error) = std::io::stdin().lock().read_to_end(&mut question) {
        eprintln!("cannot read the question: {error}");
        return Some(ExitCode::from(2));
    }
    let (mark, body) = match answer(&question) {
        Ok(body) => (DONE, body),
        Err(body) => (REFUSED, body),
    };
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(mark).and_then(|()| stdout.write_all(&body)).and_then(|()| stdout.flush()) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(_) => Some(ExitCode::from(2)),
    }
}

/// Reads a Bootstrap and gives its wire form, in a child if one can be had.
pub(super) fn decode_bootstrap(text: &str, format: Format) -> Result<Vec<u8>, Vec<Problem>> {
    let mut question = vec![mark_of(format)];
    question.extend_from_slice(text.as_bytes());
    let answer = match ask(&question).as_deref().map(split_answer) {
        Some(Some(answer)) => answer.map(<[u8]>::to_vec).map_err(<[u8]>::to_vec),
        // No child, or one that was cut short: better a larger process than none.
        _ => answer_decode(&question),
    };
    answer.map_err(|problems| {
        serde_json::from_slice(&problems)
            .unwrap_or_else(|error| vec![Problem::whole(format!("unreadable list of problems: {error}"))])
    })
}

/// Writes messages in Envoy's JSON form, in a child; one at a time, because anybody who can reach the admin port can ask.
///
/// # Errors
/// When there is no child to be had, or it does not answer.
pub async fn render_child(messages: Vec<Any>) -> Result<Value, RenderError> {
    static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);
    let _turn = ONE_AT_A_TIME.acquire().await;
    let question = DiscoveryResponse { resources: messages, ..DiscoveryResponse::default() }.encode_to_vec();
    let answer = tokio::time::timeout(LONGEST_RENDERING, exchange(question)).await;
    let answer = answer.map_err(|_| RenderError::TooSlow)?.map_err(RenderError::NoChild)?;
    match split_answer(&answer) {
        Some(Ok(json)) => serde_json::from_slice(json).map_err(|_| RenderError::NoAnswer),
        Some(Err(text)) => Err(RenderError::Refused(String::from_utf8_lossy(text).into_owned())),
        None => Err(RenderError::NoAnswer),
    }
}

/// Why messages could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The child could not be started or talked to.
    #[error("cannot run a child of this program: {0}")]
    NoChild(std::io::Error),
    /// The child took too long.
    #[error("the child of this program did not answer within {LONGEST_RENDERING:?}")]
    TooSlow,
    /// The child ended without an answer.
    #[error("the child of this program ended without an answer")]
    NoAnswer,
    /// The child says why not.
    #[error("{0}")]
    Refused(String),
}

async fn exchange(question: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut command = tokio::process::Command::from(command(RENDER)?);
    let mut child = command.kill_on_drop(true).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // The child reads to the end before it answers, so writing first cannot block for ever.
        stdin.write_all(&question).await?;
    }
    Ok(child.wait_with_output().await?.stdout)
}

/// What was asked for, or why it is not there.
type Answer = Result<Vec<u8>, Vec<u8>>;

/// Asks a child to read a document. `None` if there is no child to be had.
fn ask(question: &[u8]) -> Option<Vec<u8>> {
    let mut child = command(DECODE).ok()?.spawn().ok()?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(question));
    let output = child.wait_with_output().ok()?;
    matches!(written, Some(Ok(()))).then_some(output.stdout)
}

fn command(task: &str) -> std::io::Result<Command> {
    // By way of the kernel's own link, the child is this very program even when its file was replaced by a newer one.
    let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let mut command = Command::new(program);
    command.arg(task).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

/// `Ok` with what was asked for or `Err` with why not; `None` if this is no answer.
fn split_answer(answer: &[u8]) -> Option<Result<&[u8], &[u8]>> {
    answer.strip_prefix(DONE).map(Ok).or_else(|| answer.strip_prefix(REFUSED).map(Err))
}

/// The question is one byte for the format, then the document.
fn answer_decode(question: &[u8]) -> Answer {
    let (format, document) = question
        .split_first()
        .map_or((Format::Auto, question), |(mark, document)| (format_of(*mark), document));
    let decoded = std::str::from_utf8(document)
        .map_err(|error| vec![Problem::whole(format!("is not UTF-8 text: {error}"))])
        .and_then(|text| {
            let descriptors = Descriptors::load().map_err(|error| vec![Problem::whole(error.to_string())])?;
            descriptors.decode::<Bootstrap>(text, format)
        });
    decoded
        .map(|bootstrap| bootstrap.encode_to_vec())
        .map_err(|problems| serde_json::to_vec(&problems).unwrap_or_default())
}

/// The question is a `DiscoveryResponse`, for its list of `Any`.
fn answer_render(question: &[u8]) -> Answer {
    let messages = DiscoveryResponse::decode(question).map_err(|error| error.to_string().into_bytes())?;
    let descriptors = Descriptors::load().map_err(|error| error.to_string().into_bytes())?;
    let rendered: Vec<Value> = messages.resources.iter().map(|any| descriptors.render(any)).collect();
    serde_json::to_vec(&rendered).map_err(|error| error.to_string().into_bytes())
}

fn mark_of(format: Format) -> u8 {
    match format {
        Format::Auto => b'a',
        Format::Json => b'j',
        Format::Yaml => b'y',
    }
}

fn format_of(mark: u8) -> Format {
    match mark {
        b'j' => Format::Json,
        b'y' => Format::Yaml,
        _ => Format::Auto,
    }
}

/// First argument of a child that reads a Bootstrap.
const DECODE: &str = "__decode";

/// First argument of a child that writes messages.
const RENDER: &str = "__render";

/// Marks what was asked for.
const DONE: &[u8] = b"sidegate:done\n";

/// Marks why it is not there.
const REFUSED: &[u8] = b"sidegate:refused\n";

/// Tens of thousands of resources take seconds; nobody waits longer for a dump.
const LONGEST_RENDERING: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_by_its_mark() {
        assert_eq!(split_answer(b"sidegate:done\nabc"), Some(Ok(b"abc".as_slice())));
        assert_eq!(split_answer(b"sidegate:refused\nno"), Some(Err(b"no".as_slice())));
        assert_eq!(split_answer(b"running 0 tests"), None);
    }

    #[test]
    fn other_first_arguments_are_not_for_a_child() {
        assert!(child_entry([OsString::from("-c"), OsString::from(DECODE)].into_iter()).is_none());
        assert!(child_entry(std::iter::empty()).is_none());
    }

    #[test]
    fn a_question_is_answered_either_way() {
        let wire = answer_decode(b"ynode: {id: x}").unwrap();
        assert_eq!(Bootstrap::decode(wire.as_slice()).unwrap().node.unwrap().id, "x");
        let problems: Vec<Problem> =
            serde_json::from_slice(&answer_decode(b"ynod: {id: x}").unwrap_err()).unwrap();
        assert_eq!((problems[0].path.as_str(), problems[0].line), ("nod", Some(1)));

        let any = sidegate_xds::resource::to_any(&Bootstrap {
            flags_path: "/f".to_owned(),
            ..Bootstrap::default()
        });
        let question =
            DiscoveryResponse { resources: vec![any], ..DiscoveryResponse::default() }.encode_to_vec();
        let rendered: Value = serde_json::from_slice(&answer_render(&question).unwrap()).unwrap();
        assert_eq!(rendered[0]["flags_path"], "/f");
    }
}
