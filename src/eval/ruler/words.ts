import type { Random } from '../random.js';

// Plain words of everyday English, chosen for this project.
const describing = `able amber ample autumn basic bitter blue bold brave brief bright bronze calm careful cheap clean clever cloudy coarse cold
common copper crisp curly damp dark dense distant dry dusty eager early easy empty even faint fair famous fancy fast fine firm flat foggy
formal fresh friendly frozen full gentle giant glad golden grand gray green handy happy hard heavy hidden hollow honest huge humble icy
idle inner keen kind large late lazy level light little lively local lonely long loose loud lucky main major marble mellow merry mild
modern modest narrow neat new noble noisy northern odd old open outer pale patient plain polite proud pure quick quiet rapid rare ready
red rich ripe rough round royal rural rusty sandy secret sharp shiny short silent silver simple slim slow small smart smooth snowy soft
solid sour southern square steady steep stiff still stout strange strong sturdy subtle sunny sweet swift tall tame tender thick thin tidy
tiny tough upper urban useful usual vague vast velvet warm weary western white wide wild windy wise wooden yellow young`.split(/\s+/);
const naming = `acorn anchor apple apron arch arrow attic badge bakery barrel basket beach beacon bell bench berry blanket board boat bottle
bowl branch bread brick bridge broom brush bucket butter button cabin cable camel candle canoe canyon carpet castle cattle cavern cellar
chain chair chalk chapel cherry chimney circle clock cloth cloud coal coast comet cookie corner cotton cradle crane crater creek crown cup
curtain desert desk dinner door dragon drawer drum eagle engine falcon farm feather fence ferry field finger flag flame flute forest fork
fountain fox garden garlic gate giraffe glacier glass glove goose grain grape grass hammer harbor harvest hat hawk hedge helmet hill honey
horse hotel island ivory jacket jar jewel kettle key kitchen kite ladder lake lamp lantern leaf lemon letter library lion lizard magnet
maple market meadow melon mill mirror monkey moon moss mountain museum needle nest oak ocean olive onion orchard otter oven owl paddle
palace paper parrot path pearl pebble pencil pepper piano pigeon pillow pine planet plate plow pocket pond potato prairie pumpkin puzzle
quarry rabbit radio raft rail river road robin rocket roof rope rose saddle sail salt sand scarf school shadow sheep shelf shell ship shoe
shovel signal silk sister ski sky sled smoke snail spark spider spoon spring stable stairs star station steam stone storm stove stream
street sugar summer swan table tailor temple tent thread throne ticket tiger tile tower train tree trumpet tunnel turtle valley vase
village violin wagon wall walnut water wave wheat wheel whistle willow window winter wolf yard zebra`.split(/\s+/);

const onsets = ['b', 'br', 'd', 'dr', 'f', 'fl', 'g', 'gr', 'h', 'j', 'k', 'l', 'm', 'n', 'p', 'pl', 'r', 's', 'sh', 'st', 't', 'tr', 'v', 'w', 'z'];
const vowels = ['a', 'e', 'i', 'o', 'u', 'ai', 'ea', 'oo'];
const codas = ['', '', 'l', 'm', 'n', 'r', 's', 't'];

/** Words that lists draw from. */
export const plainWords: readonly string[] = [...new Set([...describing, ...naming])];

/** "quiet-harbor": one of 60,000 or so. */
export function keyWord(random: Random): string {
  return `${random.pick(describing)}-${random.pick(naming)}`;
}

/** A word that one can say and that is in no dictionary: "brailoset". There are millions. */
export function inventedWord(random: Random): string {
  const syllable = () => random.pick(onsets) + random.pick(vowels) + random.pick(codas);
  return syllable() + syllable() + syllable();
}

/** Letters of the alphabet, all equally likely. */
export function letters(random: Random, length: number): string {
  return Array.from({ length }, () => String.fromCharCode(97 + random.below(26))).join('');
}

/** Seven digits, the first not 0. */
export function sevenDigits(random: Random): string {
  return String(1_000_000 + random.below(9_000_000));
}

/** A UUID of version 4, drawn from `random`. */
export function uuid(random: Random): string {
  // y is the variant: 8, 9, a or b.
  return 'xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx'.replace(/[xy]/g, (place) => (place === 'y' ? 8 + random.below(4) : random.below(16)).toString(16));
}
