//! The screen: taken, drawn on, and given back as it was, however the program ends.

use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, queue, terminal};
use futures_util::StreamExt;
use rustix::process::{Signal, getpid, kill_process};

use super::lines::Line;
use crate::failure::{Failure, Result};

/// Whether the screen is ours now. The hook of a panic has nothing else to ask.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The screen, until it is dropped.
#[derive(Debug)]
pub(super) struct Terminal {
    events: EventStream,
    colour: bool,
}

/// What a person did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Enough was seen.
    Quit,
    /// It must be drawn anew: the size is another, or somebody asked.
    Redraw,
    /// To the background, until the shell brings it back.
    Suspend,
}

// === impl Terminal ===

impl Terminal {
    /// Takes the screen.
    pub(super) fn take(colour: bool) -> std::io::Result<Self> {
        give_back_after_panic();
        take()?;
        Ok(Self {
            events: EventStream::new(),
            colour,
        })
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        match terminal::size() {
            Ok((width @ 1.., height @ 1..)) => (width.into(), height.into()),
            // A terminal that does not tell has the size they all once had.
            _ => (80, 24),
        }
    }

    /// Draws lines, one below the other, over what was there: in one write and without clearing
    /// first, so that nothing flickers.
    pub(super) fn draw(&self, lines: &[Line]) -> Result {
        let (width, height) = self.size();
        let mut frame = Vec::new();
        let drawn = (|| {
            queue!(frame, terminal::BeginSynchronizedUpdate)?;
            for (row, line) in (0..u16::MAX).zip(lines.iter().take(height)) {
                queue!(frame, cursor::MoveTo(0, row))?;
                frame.extend_from_slice(line.render(width, self.colour).as_bytes());
                // After a line of full width the cursor is still on its last letter.
                if line.width() < width {
                    queue!(frame, terminal::Clear(terminal::ClearType::UntilNewLine))?;
                }
            }
            queue!(frame, terminal::EndSynchronizedUpdate)?;
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&frame)?;
            stdout.flush()
        })();
        drawn.map_err(|error| Failure::new(format!("cannot draw on the terminal: {error}")))
    }

    /// What a person does next; what means nothing is passed over.
    pub(super) async fn input(&mut self) -> Result<Input> {
        loop {
            match self.events.next().await {
                Some(Ok(event)) => {
                    if let Some(input) = meaning(&event) {
                        return Ok(input);
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::new(format!("cannot read the terminal: {error}")));
                }
                None => return Ok(Input::Quit),
            }
        }
    }

    /// Gives the screen back and stops, as Ctrl-Z does elsewhere; returns when continued.
    pub(super) fn suspend(&self) -> Result {
        give_back();
        // The default of this signal stops the process here.
        kill_process(getpid(), Signal::TSTP)?;
        take().map_err(|error| Failure::new(format!("cannot take the terminal: {error}")))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

fn meaning(event: &Event) -> Option<Input> {
    match event {
        Event::Resize(..) => Some(Input::Redraw),
        Event::Key(KeyEvent {
            code,
            modifiers,
            kind: KeyEventKind::Press,
            ..
        }) => match (code, modifiers.contains(KeyModifiers::CONTROL)) {
            (KeyCode::Char('c' | 'd'), true) => Some(Input::Quit),
            (KeyCode::Char('q' | 'Q') | KeyCode::Esc, false) => Some(Input::Quit),
            (KeyCode::Char('l'), true) => Some(Input::Redraw),
            (KeyCode::Char('z'), true) => Some(Input::Suspend),
            _ => None,
        },
        _ => None,
    }
}

fn take() -> std::io::Result<()> {
    terminal::enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    let mut stdout = std::io::stdout().lock();
    let taken = queue!(
        stdout,
        terminal::EnterAlternateScreen,
        terminal::Clear(terminal::ClearType::All),
        terminal::DisableLineWrap,
        cursor::Hide
    )
    .and_then(|()| stdout.flush());
    drop(stdout);
    if taken.is_err() {
        give_back();
    }
    taken
}

/// Does nothing where the screen is not ours.
fn give_back() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // A terminal that is gone needs none of it.
    let mut stdout = std::io::stdout().lock();
    let _ = queue!(
        stdout,
        terminal::EndSynchronizedUpdate,
        cursor::Show,
        terminal::EnableLineWrap,
        terminal::LeaveAlternateScreen
    );
    let _ = stdout.flush();
    let _ = terminal::disable_raw_mode();
}

/// A panic is told on the screen that stays, not on the one that goes.
fn give_back_after_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            tell(panic);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_they_mean_elsewhere() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        let control = KeyModifiers::CONTROL;
        for (event, input) in [
            (key(KeyCode::Char('q'), none), Some(Input::Quit)),
            (key(KeyCode::Esc, none), Some(Input::Quit)),
            (key(KeyCode::Char('c'), control), Some(Input::Quit)),
            (key(KeyCode::Char('c'), none), None),
            (key(KeyCode::Char('z'), control), Some(Input::Suspend)),
            (key(KeyCode::Char('l'), control), Some(Input::Redraw)),
            (Event::Resize(80, 24), Some(Input::Redraw)),
            (Event::FocusGained, None),
        ] {
            assert_eq!(meaning(&event), input, "{event:?}");
        }
    }
}
