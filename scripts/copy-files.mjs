// Puts beside the compiled TypeScript what tsc leaves behind: the encoder of ONNX graphs, and the files of the server's page.
import { cpSync } from 'node:fs';

cpSync('src/onnx/generated', 'dist/onnx/generated', { recursive: true });
cpSync('src/server/page', 'dist/server/page', { recursive: true });
