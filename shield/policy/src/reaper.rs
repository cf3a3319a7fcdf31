//! Where what is no longer bound is dropped: machine code takes longer to drop
//! than a message may wait.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use crate::{
    lane::Core,
    table::{Active, Table, Tenants},
};

/// How often it looks whether the last message has let go.
const LOOK: Duration = Duration::from_millis(50);

/// Takes what is retired; its thread ends with it.
pub(crate) struct Reaper(mpsc::Sender<Retired>);

/// A table that was replaced, and the bindings that are not in the new one.
pub(crate) struct Retired {
    pub(crate) table: Arc<Table>,
    pub(crate) gone: Vec<Arc<Active>>,
    pub(crate) now: Arc<Table>,
}

/// What messages in flight may still hold. This thread's hold is the last one.
#[derive(Default)]
struct Held {
    tables: Vec<Arc<Table>>,
    actives: Vec<Arc<Active>>,
    cores: Vec<Arc<Core>>,
}

impl Reaper {
    pub(crate) fn start(tenants: Arc<Tenants>) -> std::io::Result<Self> {
        // As many as there are changes of the table, and soon done.
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name("policy-reaper".into());
        thread.spawn(move || run(&receiver, &tenants))?;
        Ok(Self(sender))
    }

    pub(crate) fn retire(&self, retired: Retired) {
        // The thread ends only with this sender.
        let _ = self.0.send(retired);
    }
}

fn run(receiver: &mpsc::Receiver<Retired>, tenants: &Tenants) {
    let mut held = Held::default();
    loop {
        let next = if held.is_empty() {
            receiver.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            receiver.recv_timeout(LOOK)
        };
        match next {
            Ok(retired) => {
                tenants.sweep(&retired.now);
                for active in &retired.gone {
                    active.close();
                }
                let cores = retired.gone.iter().map(|active| Arc::clone(&active.core));
                held.cores.extend(cores);
                held.actives.extend(retired.gone);
                held.tables.push(retired.table);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        held.let_go();
    }
}

impl Held {
    fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.actives.is_empty() && self.cores.is_empty()
    }

    /// From the outside in, since each holds the next.
    fn let_go(&mut self) {
        self.tables.retain(|table| Arc::strong_count(table) > 1);
        self.actives.retain(|active| Arc::strong_count(active) > 1);
        self.cores.retain(|core| Arc::strong_count(core) > 1);
    }
}
