//! [`Driver`] on a GPU.

use super::*;

impl Driver for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn memory(&self) -> Result<(usize, usize)> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: a context is current.
        unsafe { check("cuMemGetInfo", sys::cuMemGetInfo_v2(&raw mut free, &raw mut total))? };
        Ok((free, total))
    }

    fn alloc(&self, bytes: usize) -> Result<Address> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: a context is current.
        self.with_room("cuMemAlloc", bytes, unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) })?;
        self.zero(Address(address), bytes).inspect_err(|_| self.free(Address(address)))?;
        Ok(Address(address))
    }

    fn free(&self, address: Address) {
        // An error here was one of work before, and its call has said so or will.
        if self.enter().is_ok() {
            // SAFETY: it came from `alloc`; the driver waits for work that uses it.
            unsafe { sys::cuMemFree_v2(address.0) };
        }
    }

    fn write(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the bytes live until the stream was waited for.
        unsafe {
            let code = sys::cuMemcpyHtoDAsync_v2(to.0, bytes.as_ptr().cast(), bytes.len(), self.stream);
            check("cuMemcpyHtoDAsync", code)?;
        }
        self.wait_for_stream()
    }

    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the bytes live until the stream was waited for.
        unsafe {
            let code = sys::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), from.0, bytes.len(), self.stream);
            check("cuMemcpyDtoHAsync", code)?;
        }
        self.wait_for_stream()
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: addresses of the device; a wrong one is the device's error.
        unsafe { check("cuMemcpyDtoDAsync", sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self.stream)) }
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: as in `copy`.
        unsafe { check("cuMemsetD8Async", sys::cuMemsetD8Async(at.0, 0, bytes, self.stream)) }
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let name = launch.kernel;
        let function = self.functions.get(name).ok_or_else(|| failed(format!("there is no kernel {name}")))?;
        if function.parameter_bytes != launch.parameters.len() {
            let (given, wanted) = (launch.parameters.len(), function.parameter_bytes);
            return Err(failed(format!("kernel {name} takes {wanted} bytes of parameters, not {given}")));
        }
        if launch.shared_bytes as usize > function.most_shared_bytes {
            let (asked, most) = (launch.shared_bytes, function.most_shared_bytes);
            return Err(failed(format!("kernel {name} asks for {asked} bytes of shared memory; the GPU has {most}")));
        }
        self.enter()?;
        let mut parameters = [launch.parameters.as_ptr().cast_mut().cast::<c_void>()];
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let [x, y, z] = launch.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: self.stream,
            attrs: &raw mut attribute,
            numAttrs: u32::from(self.overlapped),
        };
        // SAFETY: the block of parameters has the size that the kernel wants, and is copied before the call returns. What the kernel
        // does with the addresses in it is for the faces to answer, which check that each span holds what the kernel touches.
        unsafe {
            let code =
                sys::cuLaunchKernelEx(&raw const config, function.handle, parameters.as_mut_ptr(), ptr::null_mut());
            if code == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { check(&format!("kernel {name}"), code) }
        }
    }

    fn host_alloc(&self, bytes: usize) -> Result<*mut u8> {
        self.enter()?;
        let mut memory = ptr::null_mut();
        // SAFETY: a context is current; the memory has this many bytes.
        unsafe {
            check("cuMemHostAlloc", sys::cuMemHostAlloc(&raw mut memory, bytes, 0))?;
            ptr::write_bytes(memory.cast::<u8>(), 0, bytes);
        }
        Ok(memory.cast())
    }

    fn host_free(&self, at: *mut u8) {
        if self.enter().is_ok() {
            // SAFETY: it came from `host_alloc`.
            unsafe { sys::cuMemFreeHost(at.cast()) };
        }
    }

    unsafe fn write_later(&self, to: Address, from: *const u8, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { check("cuMemcpyHtoDAsync", sys::cuMemcpyHtoDAsync_v2(to.0, from.cast(), bytes, self.stream)) }
    }

    unsafe fn read_later(&self, from: Address, to: *mut u8, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { check("cuMemcpyDtoHAsync", sys::cuMemcpyDtoHAsync_v2(to.cast(), from.0, bytes, self.stream)) }
    }

    fn mark(&self) -> Result<u64> {
        self.enter()?;
        let mut event = ptr::null_mut();
        // SAFETY: a context is current. An event is known by its address.
        unsafe {
            check("cuEventCreate", sys::cuEventCreate(&raw mut event, 0))?;
            let recorded = check("cuEventRecord", sys::cuEventRecord(event, self.stream));
            recorded.inspect_err(|_| {
                sys::cuEventDestroy_v2(event);
            })?;
        }
        Ok(event as u64)
    }

    fn wait(&self, mark: u64) -> Result<()> {
        self.enter()?;
        // SAFETY: a mark is an event that was not destroyed yet: `Mark` owns it.
        unsafe { check("cuEventSynchronize", sys::cuEventSynchronize(mark as sys::CUevent)) }
    }

    fn milliseconds(&self, from: u64, to: u64) -> Result<f32> {
        self.wait(to)?;
        // SAFETY: both are events that were recorded, and the later one was reached.
        let elapsed = unsafe { cudarc::driver::result::event::elapsed(from as sys::CUevent, to as sys::CUevent) };
        elapsed.or_else(|error| check("cuEventElapsedTime", error.0).map(|()| 0.0))
    }

    fn forget_mark(&self, mark: u64) {
        if self.enter().is_ok() {
            // SAFETY: as in `wait`; the driver keeps it until it was reached.
            unsafe { sys::cuEventDestroy_v2(mark as sys::CUevent) };
        }
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        self.wait_for_stream()
    }

    fn begin_capture(&self) -> Result<()> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this.
        unsafe { check("cuStreamBeginCapture", sys::cuStreamBeginCapture_v2(self.stream, mode)) }
    }

    fn end_capture(&self) -> Result<u64> {
        self.enter()?;
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the graph is the driver's own; what is instantiated does not need it any more. It is known by its address.
        unsafe {
            check("cuStreamEndCapture", sys::cuStreamEndCapture(self.stream, &raw mut graph))?;
            let code = sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0);
            sys::cuGraphDestroy(graph);
            self.with_room("cuGraphInstantiate", 0, code)?;
            check("cuGraphUpload", sys::cuGraphUpload(executable, self.stream))?;
        }
        Ok(executable as u64)
    }

    fn replay(&self, graph: u64) -> Result<()> {
        self.enter()?;
        // SAFETY: it was made by `end_capture` and not yet forgotten: `Graph` owns it.
        unsafe { check("cuGraphLaunch", sys::cuGraphLaunch(graph as sys::CUgraphExec, self.stream)) }
    }

    fn forget_graph(&self, graph: u64) {
        if self.enter().is_ok() {
            // SAFETY: as in `replay`; the driver waits for replays under way.
            unsafe { sys::cuGraphExecDestroy(graph as sys::CUgraphExec) };
        }
    }
}
