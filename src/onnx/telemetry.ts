/**
 * ONNX Runtime notes what it runs, under an identifier of the machine, in a database below ~/.cache, and sends that to its makers. It does not here, unless the
 * environment says so (ORT_DISABLE_TELEMETRY=0). It reads the environment of the process when it starts, which threads other than the main one cannot change.
 */
export function refuseTelemetry(): void {
  process.env['ORT_DISABLE_TELEMETRY'] ??= '1';
}
