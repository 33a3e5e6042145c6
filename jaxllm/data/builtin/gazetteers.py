"""Names for the embedded NER corpus: plain data, read by `jaxllm.data.builtin.ner`.

Every organisation and product is invented; people are combined at random from common first names and surnames.
NAMES, and names coined from SYLLABLES, are held out (each belongs to one split alone), PARTS are shared by all, and
FORMS say how a slot of a template is put together from both. `{x}` refers to a table, `[a|b]` is a choice.
"""

from __future__ import annotations


def listed(words: str) -> tuple[str, ...]:
    """Words of a text, for tables that are easier to read so."""
    return tuple(words.split())


def _join(heads: str, tails: str) -> tuple[str, ...]:
    """Every head with every tail, as names of one family are built."""
    return tuple(head + tail for head in listed(heads) for tail in listed(tails))


_FIRST = listed("""
Abigail Adaeze Adrián Agnieszka Ahmed Aileen Aisha Akira Alejandro Aleksandr Alessandra Alice Amara Amina Amir Anahit
Ananya Anders Andrea Andrew Angela Anika Anjali Anneke Antonio Anya Arjun Arthur Astrid Ayesha Babajide Barbara
Bartosz Beatriz Benjamin Bettina Bianca Birgit Bogdan Brendan Bridget Bruno Camille Carla Carlos Caroline Catalina
Cecilia Charlotte Chiamaka Chidi Chinonso Chloé Christopher Ciara Claire Claudia Clemens Connor Cristina Daiki Daniel
Daniela Darius Deepak Delphine Desmond Dmitri Dolores Dorothy Duncan Ebele Edith Eduardo Eileen Elena Elif Elisabeth
Ellen Elodie Emeka Emily Emma Enrique Ernesto Esther Eugene Fadi Farah Fatima Felipe Fernanda Filip Fiona Francesca
Freya Friedrich Gabriel Gareth Genevieve Georgia Gerald Giovanni Giulia Gloria Gregory Gretchen Guadalupe Guillermo
Gunnar Haakon Hamza Hannah Haruki Hassan Hedvig Heinrich Helena Henrik Hiroshi Hugo Ibrahim Ifeoma Ignacio Ikechukwu
Imani Imogen Ines Ingrid Irene Isabel Isadora Ivana Jacqueline Jakub Jamila Janet Jarek Javier Jean Jennifer Jessica
Joanna Jonas Jorge Joseph Julia Julien Kaito Kamala Karim Katarzyna Kateryna Kavita Kayode Kenji Kerstin Kevin Khadija
Kiran Klaus Kristina Kwame Lakshmi Lars Laura Leila Leonardo Leticia Liam Lidia Linda Lorenzo Louise Lucas Lucía
Ludmila Luis Magdalena Maja Malik Manuel Marcel Margaret Mariana Marieke Mario Marta Martin Matteo Matthew Maurice
Maximilian Mehmet Melissa Mercedes Michael Miguel Mihai Milena Mireille Miriam Mohammed Monika Moses Nadia Naledi
Naomi Natasha Nathan Nia Nicholas Nicole Nikhil Nikolai Nina Njeri Noor Obinna Odile Olga Oliver Olivia Omar Oscar
Oskar Otieno Pablo Pamela Patricia Patrick Paula Pedro Penelope Percy Petra Philippa Pierre Piotr Pooja Priya Quentin
Rachel Rafael Rahul Raj Rania Rasmus Raymond Rebecca Renate Ricardo Rohan Roland Rosalind Roxana Rupert Ruth Ryota
Saanvi Sabine Sakura Salma Samuel Sandra Sanjay Santiago Sarah Saskia Sebastian Selma Serena Sergei Shanthi Sigrid
Silvia Simone Sipho Sofia Solveig Sophie Stefan Stella Sunita Susan Sven Svetlana Tadeusz Takumi Tamara Tariq Tatiana
Temitope Teresa Thabo Thandiwe Theodore Thomas Tobias Tomoko Tunde Ulrich Uma Ursula Valentina Valerie Vanessa
Veronica Victor Vikram Vincent Violeta Viviana Wambui Wanjiru Wendy Wilhelm Winifred Wojciech Xavier Ximena Yara
Yasmin Yetunde Yolanda Youssef Yuki Yusuf Yvette Zainab Zanele Zbigniew Zeynep Zoltán Zuzanna
""")

_LAST = listed("""
Abara Abbott Achebe Acosta Adebayo Adeyemi Agarwal Aguilar Ainsworth Akhtar Albrecht Alcántara Almeida Alvarez Amadi
Anand Ansari Aoki Appleby Aquino Arslan Ashworth Asante Atkinson Ayala Babangida Bakshi Balogun Banerjee Barclay
Barreto Bauer Beaumont Becker Bednarek Belmonte Bennett Berglund Bertrand Bhatt Blanchard Bianchi Boateng Bondarenko
Bouchard Boyle Brandt Brennan Briggs Buchanan Burkhardt Byrne Caballero Calloway Campbell Cardoso Carrillo Castellano
Cavalcanti Chakraborty Chandra Chaudhary Chevalier Chikezie Chowdhury Clarke Coleman Conti Cortés Costello Coutinho
Crawford Cruz Dąbrowski Danjuma Dasgupta Delacroix Delgado Desai Deshmukh Diallo Dietrich Dimitriou Dlamini Doherty
Domínguez Donnelly Dubois Duarte Dupont Echeverría Edwards Ekström Ellsworth Emenike Erdoğan Escobar Espinoza Fairfax
Falk Farouk Ferrari Figueroa Fischer Fitzgerald Fleming Fontaine Forsberg Fournier Friedman Fukuda Gallagher Galloway
Garcia Gauthier Gebhardt Ghosh Giordano Goldstein Gonçalves Goswami Greco Guerrero Gupta Gutiérrez Haddad Hakimi
Halvorsen Hamilton Hammond Harrington Hasegawa Hashimoto Hawthorne Heikkinen Hernández Herrera Higgins Hoang Hoffmann
Holloway Horvat Hughes Hussain Ibáñez Igwe Iglesias Inoue Ito Iyer Jaworski Jankowski Jiménez Kader Kamau Kang Kapoor
Karlsson Katz Kaur Kavanagh Kessler Khalil Khumalo Kimura Kipchoge Klein Kobayashi Kowalczyk Kozlowski Krause Krishnan
Kruger Kuhn Kulkarni Kurosawa Lachance Laghari Laurent Lebedev Leclerc Lindholm Lombardi Longfellow Lozano Lundgren
Mabaso Macharia Mahlangu Mahmoud Maldonado Mancini Marchetti Marino Marquez Martínez Masondo Matsuda Mbeki Medina
Mehta Meier Mendes Menon Meyer Mishra Mitchell Moreau Moretti Morgan Mukherjee Murakami Murphy Mwangi Nadkarni Nair
Nakamura Navarro Ndlovu Neumann Nguyen Nkosi Novak Nowak Nwosu Oakley Obi Ochoa Oduya Ogunleye Okafor Okonkwo Oliveira
Olsen Onyango Ortega Osei Ozturk Palmer Papadakis Parsons Patel Pellegrini Pereira Perkins Petrakis Pfeiffer Phillips
Pillai Pinto Quintero Rahman Rajan Ramirez Rao Rasmussen Reinhardt Renaud Reyes Richter Rinaldi Rodrigues Romero
Rosenberg Rossi Rousseau Saavedra Sadiq Saito Salazar Sandoval Santoro Sasaki Sato Scholz Schneider Schröder Serrano
Sharma Shimizu Sibanda Siddiqui Sinclair Singh Solberg Soto Sousa Stavros Steinberg Stewart Stokes Sutherland Suzuki
Szabo Szymański Takahashi Tanaka Thackeray Thapa Thibault Thorne Tiwari Tokunaga Torres Tran Tshabalala Ueda Uzun
Vaidya Valdez Vargas Vasquez Venkatesan Vermeulen Vidal Villanueva Vogel Volkov Wachira Wadhwa Wagner Walsh Watanabe
Weaver Weber Whitaker Whitmore Wójcik Wolff Yadav Yeboah Yildiz Yoshida Zamora Zapata Zhang Zieliński Zimmermann Zulu
""")

_TOWN = listed("""
Aarhus Abuja Accra Adelaide Aleppo Algiers Amman Ankara Antwerp Asunción Athens Auckland Baku Bamako Bangkok Barcelona
Basel Beirut Belgrade Bergen Berlin Bilbao Bogotá Bologna Bordeaux Bratislava Bremen Brisbane Bristol Brussels
Bucharest Budapest Cairo Calgary Cardiff Caracas Casablanca Chengdu Chennai Chicago Cologne Colombo Copenhagen Córdoba
Cusco Dakar Dallas Damascus Delft Denver Detroit Dhaka Doha Dresden Dublin Durban Düsseldorf Edinburgh Faro Freetown
Gdansk Geneva Genoa Ghent Glasgow Granada Guadalajara Hamburg Hanoi Harare Havana Helsinki Honolulu Houston Hyderabad
Islamabad Istanbul Izmir Jaipur Jakarta Johannesburg Kampala Karachi Kathmandu Khartoum Kigali Kingston Kolkata Kraków
Kyiv Kyoto Lagos Lahore Leeds Leipzig Lima Limerick Lisbon Liverpool Ljubljana Luanda Lucknow Lusaka Luxor Lyon Madrid
Malmö Managua Manchester Manila Maputo Marrakesh Marseille Medellín Melbourne Memphis Miami Milan Mombasa Monterrey
Montevideo Montreal Mumbai Munich Nagoya Nairobi Nantes Naples Nashville Nicosia Odesa Osaka Oslo Ottawa Oxford
Palermo Panjim Perth Pittsburgh Porto Portland Prague Pretoria Quebec Quito Rabat Reykjavik Riga Rome Rotterdam
Sapporo Sarajevo Seattle Seoul Seville Shanghai Stockholm Stuttgart Suva Taipei Tallinn Tampere Tashkent Tbilisi
Tehran Tirana Tokyo Toledo Toronto Toulouse Tripoli Trondheim Tunis Turin Uppsala Valencia Vancouver Venice Vienna
Vilnius Warsaw Wellington Windhoek Winnipeg Yerevan Zagreb Zanzibar Zaragoza Zurich
""")

_COUNTRY = listed("""
Algeria Angola Argentina Armenia Australia Austria Bangladesh Belgium Bolivia Botswana Brazil Bulgaria Cambodia
Cameroon Canada Chile China Colombia Croatia Cuba Cyprus Denmark Ecuador Egypt Estonia Ethiopia Fiji Finland France
Gabon Germany Ghana Greece Guatemala Haiti Honduras Hungary Iceland India Indonesia Ireland Israel Italy Jamaica Japan
Kazakhstan Kenya Kosovo Kuwait Laos Latvia Lebanon Liberia Lithuania Luxembourg Madagascar Malawi Malaysia Mali Malta
Mexico Moldova Mongolia Morocco Mozambique Namibia Nepal Nicaragua Nigeria Norway Oman Pakistan Panama Paraguay Peru
Poland Portugal Qatar Romania Rwanda Senegal Serbia Singapore Slovakia Slovenia Somalia Spain Sudan Sweden Switzerland
Syria Taiwan Tanzania Thailand Tunisia Turkey Uganda Ukraine Uruguay Venezuela Vietnam Wales Yemen Zambia Zimbabwe
""")

_STEM = listed("""
Acuvant Aerolith Agrivon Alderpoint Altamere Ambervale Anchorline Apexion Arborwell Arclight Ardentis Argonaut
Artemcor Astravia Atlanix Auralis Axiomatic Basinworks Beaconhill Bellwether Bioventis Bluecrest Bluefern Boldwood
Brightwater Cadenza Caldera Calyptus Candlewick Cascadia Cedarstone Celestix Centrivo Cinderpath Clearbrook Cloudmere
Cobaltic Copperleaf Coralis Corvex Crestline Crownfield Cygnet Dataforge Deepmarsh Deltacore Dovetail Driftwood
Dynamar Eastgate Echelon Edgewise Elmbridge Embertech Enviro Equinova Evergrove Everline Fairwind Falconridge
Fernhollow Finlogic Firebrand Flintlock Fluxwell Foxglove Frostline Fulcrum Gemstone Genovia Glasswing Glenmark
Goldcrest Granitek Greenfold Greyhaven Halcyon Harborview Hawkmoor Heartwood Helixor Heronbank Hexagon Highmark
Hollybrook Hydralis Inkwell Innovex Ironbark Ironclad Ivoryton Jadeworks Juniper Keystone Kestrel Kinetica Lakeshore
Lanternfish Larkspur Lighthouse Limestone Lodestar Longbow Lumenis Magnolia Maplewood Marigold Meadowlark Medivance
Meridian Mesoform Metrolux Millstone Mindbridge Mistral Monarch Moonrise Mosswood Nanovale Nebulon Nettlecombe Nexalon
Nightjar Nimbus Norbrook Northstar Novacrest Nutrivia Oakhurst Obsidian Oceanis Octavian Onyxware Optivera Orchardson
Orionis Osprey Overture Paragon Pathwise Pebblestone Pelican Peregrine Petrovale Pharmacor Pinnacle Pioneer Plainview
Polarium Portside Prismatic Quadrant Quantis Quarry Quicksilver Radiant Ravenscar Redwood Resonance Rivermark Robinia
Rockwell Rosewater Saffron Sagebrush Sandpiper Sapphire Scarlett Seabright Sequoia Silverlake Skyforge Snowberry
Solaris Sparrowhawk Spectra Springbank Starling Steelhead Stonebridge Stormglass Summit Sunfield Swiftwater Sycamore
Synthera Tamarack Tanglewood Tectonic Tempest Terranova Thistle Thornbury Tidewater Timberline Topaz Torchlight
Tranquil Trellis Trident Trinitas Turnstone Twinpeak Umbrella Unison Urbanis Vanguard Vectoral Velocis Verdant Veritas
Vertexa Vitalis Vivacor Walnut Waterford Wavelength Westbrook Whitecap Wildflower Willowtree Windermere Wintergreen
Wolfram Wrenfield Xenolith Yellowtail Zenithal Zephyr
""")

_FIELD = listed("""
Fisheries Agriculture Forestry Transport Education Justice Defence Housing Tourism Commerce Labour Culture Immigration
Telecommunications Mining Irrigation Aviation Statistics Meteorology Astronomy Genetics Linguistics Nutrition Ecology
Robotics Oceanography Archaeology Cardiology Geology Hydrology Optics Virology Welfare Treasury Customs Antiquities
""")

_WILD = listed("""
Aberlour Ammersee Ashdown Bannock Barrow Bellefonte Birchwood Blackthorn Bramble Broadleaf Cairn Calder Caldwell
Cascade Chestnut Cloverdale Coldwater Cottonwood Crescent Cumbria Dalwhinnie Dogwood Dunmore Eagle Elderberry Elkhorn
Esk Fairmont Fallow Farrow Fennimore Galena Garnet Gilead Glencoe Greystone Halden Hawthorn Hazel Hemlock Hickory
Hollin Huron Inverary Jordan Juniata Kelso Kirkwall Kootenay Lark Laurel Linden Lomond Lowell Madrona Magdalen Mallard
Maple Merrimack Mohawk Monadnock Narrow Nevis Niagara Oakdale Orinoco Otter Palisade Paloma Parana Pendle Pine Potomac
Quill Rainier Rannoch Redfern Ribble Rosemary Rushmore Salmon Severn Shannon Sierra Snowdon Spey Spruce Stanhope Tamar
Tarn Teton Thames Trent Tweed Tyne Ural Vesper Wabash Wharf Whistler Willow Yarrow Yukon
""")

NAMES: dict[str, tuple[str, ...]] = {
    "first": (
        *_FIRST,
        *_join(
            "Adel Bel Cal Dav Em Ev Fel Gin Hol Jan Kar Lor Mar Mir Nor Ros Sel Tar Val Vin Zel", "ina ette itza on ien"
        ),
        *_join("Abd Faz Jam Kar Nas Rash Sal Tal Wal Zam", "een ira ul"),
        *_join("Ai Chi Emi Hana Ken Maki Mi Nao Sato Taka Yo Yuri", "ka ko shi to"),
        *_join("Ade Chukwu Ike Ngo Olu Oye Temi Uche", "bayo dele kemi nna wale zi"),
        *_join("Bog Brani Dobro Jaro Milo Rado Stani Vladi Zdzi", "mil mira slav slava"),
    ),
    "last": (
        *_LAST,
        *_join("Anton Eriks Frederik Gustav Halv Jens Knud Matt Niel Peter Svend Thor", "sen son"),
        *_join("Abram Bogdan Fedor Gavril Kir Kuznets Mak Orl Romanch Sidor Smirn Yegor Zhdan", "ov ova"),
        *_join("Abraham Davit Grigor Hakob Karapet Mkrtch Petros Sarg Ter Vardan", "yan"),
        *_join("Adam Bala Czer Dom Gor Jan Kali Lew Maj Now Piotr Sobol Wisz", "ska ski czak owicz"),
        *_join("Ander Bern Fern Gonz Henr Lop Mend Rodr Sanch Velasq", "ález andes eiro iguez ona"),
        *_join("Fuji Hira Ishi Kuro Matsu Mori Naka Oka Shima Taka Yama", "gawa hara kawa moto saki shita"),
        *_join("Bell Cap Carl Don Ferr Gall Mant Pal Ricc Rom Salv Vent", "ardi atti elli ini ucci"),
        *_join("Ach Aden Bank Fash Iwu Mad Ogun Oje Okor Onu Uzo", "bola ike ola ugo uche"),
        *_join("Brad Clay Dal Hal Lang Mer Pres Rad Stan Thorn Wal Whit", "cott den ding man row worth"),
        *_join("Bara Cheka Guri Kava Lomi Met Revish Shengel", "dze shvili"),
        *_join(
            "Mac", "Allister Arthur Bride Cormack Dougall Farlane Intosh Kenna Lachlan Millan Nab Pherson Queen Rae"
        ),
        *_join("O'", "Brien Callaghan Connell Dowd Driscoll Hara Keefe Leary Malley Neill Reilly Rourke Shea Sullivan"),
    ),
    "town": (
        *_TOWN,
        *_join("Ash Black Cran Dun Elling Hart Kirk Lang Marl Northal Pem Red Stan Thorn Whit", "by ford ham ley wick"),
        *_join("Alten Breiten Eichen Grün Linden Neu Ober Rosen Stein Wald", "bach berg dorf heim"),
        *_join("Belle Beau Clair Haute Mont Roche Ville", "court fontaine mer rive"),
    ),
    "country": (
        *_COUNTRY,
        *_join(
            "Alb Ard Bor Cald Dras Est Fal Kest Lor Marv Ner Ost Pol Rav Sard Tur Velm", "ania avia istan ovia uria"
        ),
    ),
    "stem": (
        *_STEM,
        *_join("Agri Bio Cyber Electro Geo Hydro Info Micro Nano Omni Poly Syn Tele", "cor dyne gen tec via"),
    ),
    "field": _FIELD,
    "wild": _WILD,
    "brand": (
        *_join("Ax Bel Cor Del Fen Gal Hal Kin Lum Mav Nov Ol Pul Quo Riv Sol Tav Vex Zen", "ara eon ia ino ix ora us"),
        *_join(
            "Aero Aqua Clean Cool Easy Fast Flex Home Pocket Power Quick Smart Snap Sound Swift Turbo", "Beam Book Cam"
        ),
        *_join("Air Blend Brew Drive Foto Glide Note Pad Pix Ride Scan Shift Spin Vid Watch", "ly matic ster zy"),
    ),
}
"""Held out: an entry, and so each word that it puts in a sentence, is found in one split alone."""

SYLLABLES: tuple[tuple[str, ...], ...] = (
    listed("""
Ba Be Bo Bra Ca Cha Co Da De Do Dra El Fa Fe Fio Ga Gre Ha He Il Ja Jo Ka Ke Ki Kra La Le Li Lu Ma Me Mo Na Ne Ni O Pa
Pe Pra Ra Re Ro Sa Se Shi So Sta Ta Te Ti Tra U Va Ve Vi Wa We Wi Ya Yo Za Ze
"""),
    _join("b d f g k l ll m n nd r rr s st t v z", "a e i o u"),
    listed("ba ck da dan den der dia do far ga gen go ka ko la len lin lo ma man mi mon na nez no nya ra ri ro so ta"),
)
"""What names are coined from: a beginning, a middle, an end. No name can be known by heart when many occur once."""

PARTS: dict[str, tuple[str, ...]] = {
    "initial": tuple(f"{letter}." for letter in "ABCDEFGHJKLMNPRSTVW"),
    "company": listed("Inc Ltd Corp Group Holdings Partners Labs Systems Industries Energy Foods Airlines Motors"),
    "society": ("Institute", "Foundation", "Museum", "Hospital", "Academy", "Trust", "College", "Orchestra"),
    "body": ("Ministry", "Department", "Institute", "Bureau", "Office", "Academy"),
    "club": ("United", "Rovers", "Wanderers", "Athletic", "Tigers", "Hawks", "City"),
    "letter": tuple("ACEGMPQRSTVXZ"),
    "edition": ("Pro", "Mini", "Max", "Plus", "Air", "Ultra", "Lite", "One", "Go"),
    "model": tuple(
        str(n) for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 40, 50, 60, 80, 100, 200, 300, 500, 750, 900)
    ),
    "month": listed("January February March April May June July August September October November December"),
    "weekday": listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "dom": tuple(str(n) for n in range(1, 32) if n < 29),
    "dd": tuple(f"{n:02}" for n in range(1, 29)),
    "mm": tuple(f"{n:02}" for n in range(1, 13)),
    "year": tuple(str(n) for n in range(1920, 2030)),
    "decade": tuple(f"{n}s" for n in range(1920, 2030, 10)),
    "season": ("spring", "summer", "autumn", "winter"),
}
"""Shared by all splits: what names and dates are completed with."""

FORMS: dict[str, tuple[str, ...]] = {
    "person": (*["{first} {last}"] * 14, *["{first}"] * 2, "{initial} {last}", "{first} {initial} {last}"),
    "surname": ("{last}",),
    "given": ("{first}",),
    "org": (
        *["{stem} {company}"] * 8,
        *["{stem}"] * 3,
        *["{town} University"] * 2,
        "{town} [Hospital|College|Museum|Airport Authority]",
        "{last} & [Sons|Daughters|Partners|Co]",
        "{last} [Motors|Foods|Industries|Group]",
        "{town} {club}",
        "Bank of {town}",
    ),
    "inst": (
        "{last} {society}",
        "{stem} {society}",
        "{body} of {field}",
        "{country} {society} of {field}",
        "University of {town}",
        "Bank of {country}",
        "{town} {society}",
    ),
    "team": ("{town} {club}", "{stem} {club}"),
    "place": (*["{town}"] * 8, *["{country}"] * 4, "[Port|New|North|South|East|West] {town}", "{wild} Valley"),
    "city": (*["{town}"] * 6, "[Port|New|North|South|East|West] {town}"),
    "land": ("{country}",),
    "river": ("{wild} [River|Canyon|Hills|Forest|Canal|Desert]", "River {wild}"),
    "peak": ("Mount {wild}", "Lake {wild}", "{wild} [Valley|Park|Island|Bay|Falls]", "Cape {wild}"),
    "street": ("{wild} [Street|Avenue|Road|Lane|Square]", "{town} [Street|Road|Square]"),
    "product": (
        *["{brand} {model}"] * 5,
        *["{brand} {letter}{model}"] * 5,
        *["{brand} {edition}"] * 3,
        *["{brand} {model} {edition}"] * 3,
        "{brand}-{model}",
        *["{brand}"] * 2,
    ),
    "day": (
        *["{dom} {month} {year}"] * 4,
        *["{month} {dom}, {year}"] * 4,
        *["{dom} {month}"] * 2,
        *["{month} {dom}"] * 2,
        "{weekday}",
        "{weekday}, {dom} {month}",
        "{year}-{mm}-{dd}",
    ),
    "time": (
        *["{month} {year}"] * 4,
        *["{year}"] * 5,
        "[early|late|mid] {year}",
        "the {season} of {year}",
        "the {decade}",
    ),
    "past": (
        "last [{weekday}|{month}|{season}]",
        "last {weekday} [morning|afternoon|evening|night]",
        "late last {month}",
        "early last {season}",
    ),
    "future": (
        "next [{weekday}|{month}|{season}]",
        "this {season}",
        "[next|this] {weekday} [morning|afternoon|evening]",
        "the [first|second|third|last] week of {month}",
        "the end of {month}",
    ),
}
"""How a slot is filled; a form that stands twice is twice as likely."""

LABELS: dict[str, str] = {
    **dict.fromkeys(("person", "surname", "given"), "person"),
    **dict.fromkeys(("org", "inst", "team"), "organisation"),
    **dict.fromkeys(("place", "city", "land", "river", "peak", "street"), "place"),
    "product": "product",
    **dict.fromkeys(("day", "time", "past", "future"), "date"),
}
"""The entity type of each slot."""
