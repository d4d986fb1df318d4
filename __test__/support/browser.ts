import { existsSync } from 'node:fs';

import { type Browser, chromium } from 'playwright-core';

/** Where systems put a Chromium, the one of the environment first. */
const places = [process.env['CHROMIUM'], '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome', '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'];

/** The browser of this machine, if it has one. */
export const browserPath = places.find((path) => path !== undefined && existsSync(path));

export async function startBrowser(executablePath: string): Promise<Browser> {
  // Root, as in a container, has no sandbox there.
  return await chromium.launch({ executablePath, chromiumSandbox: process.getuid?.() !== 0 });
}
