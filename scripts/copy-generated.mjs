// Puts the encoder of ONNX graphs beside the compiled TypeScript: tsc checks against its types and leaves its JavaScript behind.
import { cpSync } from 'node:fs';

cpSync('src/onnx/generated', 'dist/onnx/generated', { recursive: true });
