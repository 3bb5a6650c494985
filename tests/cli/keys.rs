//! The keys of a run, pressed on a terminal that the test holds the other end of.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use super::command;
use crate::example::example;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What appears on the screen.
struct Screen {
    news: Receiver<Vec<u8>>,
    text: String,
}

impl Screen {
    /// Reads the holder's end of a terminal until its other end is closed.
    fn of(mut holder: File) -> Self {
        let (sender, news) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = holder.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { news, text: String::new() }
    }

    fn wait_for(&mut self, words: &str) {
        while !self.text.contains(words) {
            let bytes = self.news.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no `{words}` in:\n{}", self.text));
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn s_saves_a_training_and_q_ends_it_and_the_terminal_is_as_before() {
    let folder = example();
    let holder = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&holder).expect("granted");
    unlockpt(&holder).expect("unlocked");
    let name = ptsname(&holder, Vec::new()).expect("a name").into_string().expect("plain");
    let terminal = OpenOptions::new().read(true).write(true).open(name).expect("the other end");
    let end = || terminal.try_clone().expect("another end");
    let mut keyboard = File::from(holder);
    let mut screen = Screen::of(keyboard.try_clone().expect("the same end"));
    let modes = || tcgetattr(&terminal).expect("a terminal").local_modes;
    let before = modes();
    assert!(before.contains(LocalModes::ICANON | LocalModes::ECHO));

    let mut run = command(folder.path(), &["run", ".", "train"]);
    let mut run = run.stdin(end()).stdout(end()).stderr(end()).spawn().expect("the program starts");
    screen.wait_for("`q` ends the training");
    assert!(!modes().intersects(LocalModes::ICANON | LocalModes::ECHO));
    // The first step must be done before there is anything to save.
    screen.wait_for("loss");
    keyboard.write_all(b"xs").expect("pressed");
    screen.wait_for("Saved");
    keyboard.write_all(b"q").expect("pressed");
    screen.wait_for("stopped at epoch");
    assert!(run.wait().expect("it ends").success(), "{}", screen.text);
    assert_eq!(modes(), before);
}
