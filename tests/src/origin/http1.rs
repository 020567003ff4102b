//! An origin's HTTP/1.1 connection.

use std::io;

use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{Answer, Framing, Side, Then};
use crate::message::{Received, values};
use crate::wire::{End, Wire, end_of, push_chunked, push_fields};

pub(super) async fn serve(socket: TcpStream, side: Side) -> io::Result<()> {
    let mut wire = Wire::recorded(socket, side.log.tape());
    for nth in 1.. {
        let Some(mut received) = read_head(&mut wire, &side, nth).await? else { break };
        let is_head = received.method == "HEAD";
        if side.eager {
            // The answer overtakes the content.
            let answer = (side.script)(&received);
            write(&mut wire, &answer, is_head).await.inspect_err(|_| side.log.abandon())?;
            read_body(&mut wire, &mut received).await?;
            side.log.receive(received);
            continue;
        }
        read_body(&mut wire, &mut received).await?;
        let answer = (side.script)(&received);
        side.log.receive(received);
        if let Some(gate) = &answer.gate {
            tokio::select! {
                () = gate.opened() => {}
                () = wire.gone() => {
                    side.log.abandon();
                    return Ok(());
                }
            }
        }
        write(&mut wire, &answer, is_head).await.inspect_err(|_| side.log.abandon())?;
        match answer.then {
            Then::Go | Then::GoAway => continue,
            Then::Close => sleep(answer.linger).await,
            // Without lingering, what is not delivered is thrown away and the other side is told so.
            Then::Reset => wire.socket.set_zero_linger()?,
        }
        break;
    }
    Ok(())
}

async fn read_head(wire: &mut Wire, side: &Side, nth: usize) -> io::Result<Option<Received>> {
    let Some(head) = wire.head().await? else { return Ok(None) };
    let mut words = head.start.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let received = Received {
        method: word(),
        target: word(),
        authority: values(&head.fields, "host").join(","),
        headers: head.fields,
        connection: side.number,
        nth,
        ..Received::default()
    };
    Ok(Some(received))
}

async fn read_body(wire: &mut Wire, received: &mut Received) -> io::Result<()> {
    if received.header("expect").is_some() {
        wire.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let end = end_of(&received.headers, End::None);
    received.trailers = wire.body(end, &mut received.body).await?;
    Ok(())
}

async fn write(wire: &mut Wire, answer: &Answer, is_head: bool) -> io::Result<()> {
    if let Some(raw) = &answer.raw {
        wire.write(raw).await?;
        if let Some((pause, late)) = &answer.late {
            sleep(*pause).await;
            // The other side may have gone: all the better.
            let _ = wire.write(late).await;
        }
        return Ok(());
    }
    let mut out = format!("HTTP/1.1 {} Scripted\r\n", answer.status).into_bytes();
    push_fields(&answer.headers, &mut out);
    let bodiless = matches!(answer.status, 204 | 304);
    match answer.framing {
        Framing::Length if !bodiless => {
            out.extend(format!("Content-Length: {}\r\n", answer.body.len()).into_bytes());
        }
        Framing::Chunked => out.extend(b"Transfer-Encoding: chunked\r\n"),
        Framing::Length | Framing::UntilClose => {}
    }
    out.extend(b"\r\n");
    if is_head || bodiless {
        return wire.write(&out).await;
    }
    if answer.framing == Framing::Chunked && answer.pace.is_none() {
        push_chunked(&answer.body, &answer.trailers, &mut out);
        return wire.write(&out).await;
    }
    wire.write(&out).await?;
    let (pieces, pause) = answer.pieces();
    for (index, piece) in pieces.into_iter().enumerate() {
        if index > 0 {
            sleep(pause).await;
        }
        if answer.framing == Framing::Chunked {
            wire.write(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await?;
        } else {
            wire.write(piece).await?;
        }
    }
    if answer.framing == Framing::Chunked {
        let mut end = Vec::new();
        push_chunked(&[], &answer.trailers, &mut end);
        wire.write(&end).await?;
    }
    Ok(())
}
