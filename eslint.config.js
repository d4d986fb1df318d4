import tseslint from 'typescript-eslint';

/** Who may import whom is part of the design: these rules are its enforcement. */
const gateways = (patterns) => ({ 'no-restricted-imports': ['error', { patterns }] });
const addon = { group: ['**/index.js'], importNames: ['NativeModel', 'NativeSession', 'NativeVocabulary', 'NativeGrammar', 'attendBatch', 'cpuInfo', 'measure', 'packBlocks', 'dequantise'], message: 'Only src/native.ts imports the addon.' };
const onnxruntime = { group: ['onnxruntime-*'], message: 'Only src/onnx/runtime.ts imports ONNX Runtime.' };

export default tseslint.config(
  { ignores: ['dist/', 'target/', 'node_modules/', 'index.js', 'index.d.ts', 'src/onnx/generated/', 'benches/peers/node_modules/'] },
  ...tseslint.configs.strictTypeChecked.map((config) => ({ ...config, files: ['**/*.ts'] })),
  {
    files: ['**/*.ts'],
    languageOptions: { parserOptions: { project: './tsconfig.test.json', tsconfigRootDir: import.meta.dirname } },
    rules: {
      eqeqeq: 'error',
      '@typescript-eslint/no-unused-vars': ['error', { ignoreUsingDeclarations: true }],
      'max-lines': ['error', { max: 400, skipBlankLines: true, skipComments: true }],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      ...gateways([addon, onnxruntime]),
    },
  },
  { files: ['src/native.ts', '__test__/native.test.ts'], rules: gateways([onnxruntime]) },
  { files: ['src/onnx/runtime.ts'], rules: gateways([addon]) },
  { files: ['src/model/**'], rules: gateways([addon, onnxruntime, { group: ['**/onnx/**', '**/decode/**', '**/eval/**', '**/cli/**', '**/native.js'], message: 'model imports none of these.' }]) },
  { files: ['src/onnx/**'], ignores: ['src/onnx/runtime.ts'], rules: gateways([addon, onnxruntime, { group: ['**/decode/**', '**/eval/**', '**/cli/**'], message: 'onnx imports model and native only.' }]) },
  { files: ['src/decode/**'], rules: gateways([addon, onnxruntime, { group: ['**/eval/**', '**/server/**', '**/cli/**'], message: 'decode knows neither evaluations, nor the server, nor the command line.' }]) },
  { files: ['src/eval/**'], rules: gateways([addon, onnxruntime, { group: ['**/onnx/**', '**/native.js', '**/cli/**'], message: 'eval imports decode and model only.' }]) },
  { files: ['src/server/**'], rules: gateways([addon, onnxruntime, { group: ['**/onnx/**', '**/native.js', '**/eval/**', '**/cli/**'], message: 'server imports decode and model only.' }]) },
  {
    files: ['__test__/**/*.ts'],
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
);
