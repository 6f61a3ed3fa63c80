// Counts of finish effects: how many actions followed when jobs became final.

export interface FinishEffects {
  /** Final jobs whose finish effects are complete. */
  effectsDone: number
  /** Blocked jobs that became claimable. */
  promoted: number
  dependentsFailed: number
}

export const NO_EFFECTS: Readonly<FinishEffects> = {
  effectsDone: 0,
  promoted: 0,
  dependentsFailed: 0,
}

export function sumEffects(some: Readonly<FinishEffects>[]): FinishEffects {
  const total = { ...NO_EFFECTS }
  for (const one of some) addEffects(total, one)
  return total
}

/** @param total the function adds to it */
export function addEffects(total: FinishEffects, more: Partial<FinishEffects>): void {
  total.effectsDone += more.effectsDone ?? 0
  total.promoted += more.promoted ?? 0
  total.dependentsFailed += more.dependentsFailed ?? 0
}
