import { existsSync } from 'node:fs';
import { dirname } from 'node:path';

/** Where Debian's chromium has SwiftShader; MAGICPIG_VULKAN_ICD names another driver, a GPU's for instance. */
export const driver = process.env['MAGICPIG_VULKAN_ICD'] ?? '/usr/lib/chromium/vk_swiftshader_icd.json';

export const hasDriver = existsSync(driver);

/** The environment of a process that is to find the driver: Vulkan's loader reads it once, when the process starts. `folder` is for what the driver writes. */
export function withDriver(folder: string): Record<string, string> {
  return { VK_ICD_FILENAMES: driver, XDG_RUNTIME_DIR: folder, LD_LIBRARY_PATH: `${dirname(driver)}:${process.env['LD_LIBRARY_PATH'] ?? ''}` };
}

/** The environment of a process that finds no driver on Linux, whatever the machine has. */
export const withoutDriver = { VK_ICD_FILENAMES: '/nowhere/icd.json', VK_DRIVER_FILES: '/nowhere/icd.json' };
