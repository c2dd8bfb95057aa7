//! A virtual WASI, for language runtimes that insist on one.
//!
//! Nothing of the host is behind it: the clock shows the entry's time, random bytes follow from the
//! call's id, there are no files, no environment and no sockets, input is at its end, and output goes
//! to the log, bounded. Every pollable is ready at once, so that sleeping takes no time. Each call is
//! charged like any other call into the host.
//!
//! The interfaces and their types come from `wasmtime-wasi`; of its implementation only that of
//! files is used, for a guest that can never hold one.

use lattice_kernel::outcome::TrapKind;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemCtx, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::sync::io::{poll, streams};
use wasmtime_wasi::p2::bindings::{cli, clocks, random};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult, bindings,
};

use crate::host::{Data, Stop};
use crate::limits::{OUTPUT_BYTES_MAX, OUTPUT_LINE_BYTES_MAX};
use crate::profile::RANDOM_BYTES_MAX;

/// The WASI state of one instance.
pub(crate) struct Wasi {
    files: WasiFilesystemCtx,
    table: ResourceTable,
    random: Option<blake3::OutputReader>,
    line: Vec<u8>,
    output_left: usize,
}

impl Default for Wasi {
    fn default() -> Self {
        Self {
            files: WasiFilesystemCtx::default(),
            table: ResourceTable::new(),
            random: None,
            line: Vec::new(),
            output_left: OUTPUT_BYTES_MAX,
        }
    }
}

impl Wasi {
    /// Begins one call: its randomness is its own.
    pub(crate) fn begin(&mut self) {
        self.random = None;
    }

    fn print(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(self.output_left);
        self.output_left -= kept;
        for &byte in &bytes[..kept] {
            if byte == b'\n' || self.line.len() == OUTPUT_LINE_BYTES_MAX {
                self.flush();
            }
            if byte != b'\n' {
                self.line.push(byte);
            }
        }
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            let text = String::from_utf8_lossy(&self.line);
            tracing::debug!(target: "lattice::plugin", "{}", crate::values::text::escape(&text));
            self.line.clear();
        }
    }
}

impl Drop for Wasi {
    fn drop(&mut self) {
        self.flush();
    }
}

const STDOUT: u32 = 1;
const READY: u32 = 0;

impl Data {
    fn wasi(&mut self) -> &mut Wasi {
        // Built when an instance starts whose component imports WASI, and kept.
        self.wasi.get_or_insert_default()
    }

    fn random(&mut self, bytes: &mut [u8]) -> wasmtime::Result<()> {
        self.meter.charge_read(bytes.len())?;
        let seed = self.run()?.random_seed();
        let reader = self.wasi().random.get_or_insert_with(|| {
            let mut hasher = blake3::Hasher::new_derive_key("lattice 2026-11 virtual randomness 1");
            hasher.update(&seed);
            hasher.finalize_xof()
        });
        reader.fill(bytes);
        Ok(())
    }

    fn random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        if len > RANDOM_BYTES_MAX {
            return Err(Stop::Trap(TrapKind::Limit).into());
        }
        let mut bytes = vec![0; len as usize];
        self.random(&mut bytes)?;
        Ok(bytes)
    }

    fn random_u64(&mut self) -> wasmtime::Result<u64> {
        let mut bytes = [0; 8];
        self.random(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn ready(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        self.meter.charge_read(0)?;
        Ok(Resource::new_own(READY))
    }

    fn write(&mut self, contents: &[u8]) -> StreamResult<()> {
        let charged = self.meter.charge_read(contents.len());
        charged.map_err(StreamError::Trap)?;
        self.wasi().print(contents);
        Ok(())
    }

    fn zeroes(&mut self, len: u64) -> StreamResult<()> {
        match len <= WRITE_BYTES_MAX {
            true => self.write(&vec![0; len as usize]),
            false => Err(StreamError::Trap(Stop::Trap(TrapKind::Limit).into())),
        }
    }

    fn closed<T>(&mut self) -> StreamResult<T> {
        self.meter.charge_read(0).map_err(StreamError::Trap)?;
        Err(StreamError::Closed)
    }
}

/// What an output stream says that it takes at once, in bytes.
const WRITE_BYTES_MAX: u64 = 4096;

struct Virtual;

impl HasData for Virtual {
    type Data<'a> = &'a mut Data;
}

/// Defines the virtual WASI.
pub(crate) fn add_to_linker(linker: &mut Linker<Data>) -> wasmtime::Result<()> {
    random::random::add_to_linker::<_, Virtual>(linker, |data| data)?;
    random::insecure::add_to_linker::<_, Virtual>(linker, |data| data)?;
    random::insecure_seed::add_to_linker::<_, Virtual>(linker, |data| data)?;
    clocks::wall_clock::add_to_linker::<_, Virtual>(linker, |data| data)?;
    clocks::monotonic_clock::add_to_linker::<_, Virtual>(linker, |data| data)?;
    poll::add_to_linker::<_, Virtual>(linker, |data| data)?;
    streams::add_to_linker::<_, Virtual>(linker, |data| data)?;
    cli::environment::add_to_linker::<_, Virtual>(linker, |data| data)?;
    cli::exit::add_to_linker::<_, Virtual>(linker, |data| data)?;
    cli::stdin::add_to_linker::<_, Virtual>(linker, |data| data)?;
    cli::stdout::add_to_linker::<_, Virtual>(linker, |data| data)?;
    cli::stderr::add_to_linker::<_, Virtual>(linker, |data| data)?;
    cli::terminal_input::add_to_linker::<_, Virtual>(linker, |data| data)?;
    cli::terminal_output::add_to_linker::<_, Virtual>(linker, |data| data)?;
    cli::terminal_stdin::add_to_linker::<_, Virtual>(linker, |data| data)?;
    cli::terminal_stdout::add_to_linker::<_, Virtual>(linker, |data| data)?;
    cli::terminal_stderr::add_to_linker::<_, Virtual>(linker, |data| data)?;
    wasmtime_wasi::p2::bindings::io::error::add_to_linker::<_, Errors>(linker, |data| {
        &mut data.wasi().table
    })?;
    bindings::filesystem::preopens::add_to_linker::<_, WasiFilesystem>(linker, files)?;
    bindings::sync::filesystem::types::add_to_linker::<_, WasiFilesystem>(linker, files)
}

struct Errors;

impl HasData for Errors {
    type Data<'a> = &'a mut ResourceTable;
}

fn files(data: &mut Data) -> WasiFilesystemCtxView<'_> {
    let wasi = data.wasi();
    WasiFilesystemCtxView {
        ctx: &mut wasi.files,
        table: &mut wasi.table,
    }
}

impl random::random::Host for Data {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_u64()
    }
}

impl random::insecure::Host for Data {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_u64()
    }
}

impl random::insecure_seed::Host for Data {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.random_u64()?, self.random_u64()?))
    }
}

impl clocks::wall_clock::Host for Data {
    fn now(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        self.meter.charge_read(0)?;
        let ms = self.run()?.clock().wall_ms;
        Ok(clocks::wall_clock::Datetime {
            seconds: ms / 1000,
            nanoseconds: (ms % 1000) as u32 * 1_000_000,
        })
    }

    fn resolution(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        self.meter.charge_read(0)?;
        Ok(clocks::wall_clock::Datetime {
            seconds: 0,
            nanoseconds: 1_000_000,
        })
    }
}

impl clocks::monotonic_clock::Host for Data {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.meter.charge_read(0)?;
        // Never zero: Go's runtime aborts on a clock that stands there.
        Ok(self.run()?.clock().wall_ms.saturating_mul(1_000_000).max(1))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        self.meter.charge_read(0)?;
        Ok(1_000_000)
    }

    fn subscribe_instant(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.ready()
    }

    fn subscribe_duration(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.ready()
    }
}

impl poll::Host for Data {
    fn poll(&mut self, list: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        self.meter.charge_read(4 * list.len())?;
        Ok((0..list.len() as u32).collect())
    }
}

impl poll::HostPollable for Data {
    fn ready(&mut self, _pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        self.meter.charge_read(0)?;
        Ok(true)
    }

    fn block(&mut self, _pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.meter.charge_read(0)
    }

    fn drop(&mut self, _pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl streams::Host for Data {
    fn convert_stream_error(
        &mut self,
        error: StreamError,
    ) -> wasmtime::Result<streams::StreamError> {
        match error {
            StreamError::Closed => Ok(streams::StreamError::Closed),
            StreamError::LastOperationFailed(error) | StreamError::Trap(error) => Err(error),
        }
    }
}

impl streams::HostInputStream for Data {
    fn read(&mut self, _stream: Resource<DynInputStream>, _len: u64) -> StreamResult<Vec<u8>> {
        self.closed()
    }

    fn blocking_read(
        &mut self,
        _stream: Resource<DynInputStream>,
        _len: u64,
    ) -> StreamResult<Vec<u8>> {
        self.closed()
    }

    fn skip(&mut self, _stream: Resource<DynInputStream>, _len: u64) -> StreamResult<u64> {
        self.closed()
    }

    fn blocking_skip(&mut self, _stream: Resource<DynInputStream>, _len: u64) -> StreamResult<u64> {
        self.closed()
    }

    fn subscribe(
        &mut self,
        _stream: Resource<DynInputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        self.ready()
    }

    fn drop(&mut self, _stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl streams::HostOutputStream for Data {
    fn check_write(&mut self, _stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        self.meter.charge_read(0).map_err(StreamError::Trap)?;
        Ok(WRITE_BYTES_MAX)
    }

    fn write(&mut self, _stream: Resource<DynOutputStream>, contents: Vec<u8>) -> StreamResult<()> {
        Data::write(self, &contents)
    }

    fn blocking_write_and_flush(
        &mut self,
        _stream: Resource<DynOutputStream>,
        contents: Vec<u8>,
    ) -> StreamResult<()> {
        Data::write(self, &contents)
    }

    fn flush(&mut self, _stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.meter.charge_read(0).map_err(StreamError::Trap)
    }

    fn blocking_flush(&mut self, _stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.meter.charge_read(0).map_err(StreamError::Trap)
    }

    fn subscribe(
        &mut self,
        _stream: Resource<DynOutputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        Data::ready(self)
    }

    fn write_zeroes(&mut self, _stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        self.zeroes(len)
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        _stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        self.zeroes(len)
    }

    fn splice(
        &mut self,
        _stream: Resource<DynOutputStream>,
        _source: Resource<DynInputStream>,
        _len: u64,
    ) -> StreamResult<u64> {
        self.closed()
    }

    fn blocking_splice(
        &mut self,
        _stream: Resource<DynOutputStream>,
        _source: Resource<DynInputStream>,
        _len: u64,
    ) -> StreamResult<u64> {
        self.closed()
    }

    fn drop(&mut self, _stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl cli::environment::Host for Data {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        self.meter.charge_read(0)?;
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        self.meter.charge_read(0)?;
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        self.meter.charge_read(0)?;
        Ok(None)
    }
}

impl cli::exit::Host for Data {
    fn exit(&mut self, _status: Result<(), ()>) -> wasmtime::Result<()> {
        // A component has no process to leave: whatever the status, the call did not return.
        Err(Stop::Trap(TrapKind::Guest).into())
    }

    fn exit_with_code(&mut self, _code: u8) -> wasmtime::Result<()> {
        Err(Stop::Trap(TrapKind::Guest).into())
    }
}

impl cli::stdin::Host for Data {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<DynInputStream>> {
        self.meter.charge_read(0)?;
        Ok(Resource::new_own(0))
    }
}

impl cli::stdout::Host for Data {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.meter.charge_read(0)?;
        Ok(Resource::new_own(STDOUT))
    }
}

impl cli::stderr::Host for Data {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.meter.charge_read(0)?;
        Ok(Resource::new_own(STDOUT))
    }
}

impl cli::terminal_input::Host for Data {}

impl cli::terminal_input::HostTerminalInput for Data {
    fn drop(&mut self, _: Resource<cli::terminal_input::TerminalInput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl cli::terminal_output::Host for Data {}

impl cli::terminal_output::HostTerminalOutput for Data {
    fn drop(&mut self, _: Resource<cli::terminal_output::TerminalOutput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl cli::terminal_stdin::Host for Data {
    fn get_terminal_stdin(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<cli::terminal_input::TerminalInput>>> {
        self.meter.charge_read(0)?;
        Ok(None)
    }
}

impl cli::terminal_stdout::Host for Data {
    fn get_terminal_stdout(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        self.meter.charge_read(0)?;
        Ok(None)
    }
}

impl cli::terminal_stderr::Host for Data {
    fn get_terminal_stderr(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        self.meter.charge_read(0)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_ends_at_its_bytes_and_a_line_at_its_own() {
        let mut wasi = Wasi::default();
        wasi.print(&[b'x'; OUTPUT_LINE_BYTES_MAX]);
        assert_eq!(wasi.line.len(), OUTPUT_LINE_BYTES_MAX);
        wasi.print(b"y");
        assert_eq!(
            wasi.line, b"y",
            "the full line is gone, and this begins another"
        );
        let left = OUTPUT_BYTES_MAX - OUTPUT_LINE_BYTES_MAX - 1;
        assert_eq!(wasi.output_left, left);
        wasi.print(&vec![b'\n'; left - 1]);
        wasi.print(b"ab");
        assert_eq!((wasi.output_left, &wasi.line[..]), (0, &b"a"[..]));
        wasi.print(b"c");
        assert_eq!(wasi.line, b"a", "nothing more is kept");
    }
}
